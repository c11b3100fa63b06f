"""One process or thread at a time, among all of a machine that share a folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fedx_core.base.errors import PlatformError, StoreError

try:
    import fcntl
except ImportError as error:
    raise PlatformError(
        "this system has no file locks (fcntl), which FedX needs; it runs on Linux and macOS, and "
        "on Windows inside WSL 2: install it there"
    ) from error


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a file's lock, waiting for it; a process that dies lets go of it.

    Threads exclude each other too. Where the file system has no locks, as some network mounts,
    nothing is held: who uses this must stay right without it, if with more work.

    Args:
        path: of the lock file; made where it is missing, and left behind empty. Only who holds the
            lock may delete it.
        waiting: called once if somebody else holds it; what it raises ends the waiting.

    Raises:
        StoreError: the file can't be made.
    """
    while True:
        with _opened(path) as file:
            with suppress(OSError):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    waiting = _once
                    fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield  # closing the file lets go
                return


@contextmanager
def shared(path: Path) -> Iterator[bool]:
    """Keep out who holds a file's lock alone; others may hold it with this one.

    Args:
        path: of the lock file. Where it is missing nobody has ever held it, and nothing is done.

    Yields:
        Whether it is there.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    except OSError:  # not ours to lock
        yield True
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        yield True


def hold(file: IO[bytes]) -> None:
    """Lock a file until it is closed, waiting for whoever has it; without locks, do nothing."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


def is_free(file: IO[bytes]) -> bool:
    """Lock a file if nobody else has it, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise StoreError(
            f"can't write {path}: {error.strerror or error}; see to the permissions of its folder, "
            "or choose another"
        ) from error


def _once() -> None:
    """Say nothing a second time."""


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether a file is still what its path names; its last holder may have deleted it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
