"""One process or thread at a time, among all of a machine that share a folder."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a file's lock, waiting for it; a process that dies lets go of it.

    Threads exclude each other too. Where the file system has no locks, as some network mounts,
    nothing is held: who uses this must stay right without it, if with more work.

    Args:
        path: of the lock file; made where it is missing, and left behind empty. Only who holds the
            lock may delete it.
        waiting: called once if somebody else holds it; what it raises ends the waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
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


def _once() -> None:
    """Say nothing a second time."""


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether a file is still what its path names; its last holder may have deleted it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
