"""One process or thread at a time, among all of a machine that share a folder."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a file's lock, waiting for it; a process that dies lets go of it.

    Threads exclude each other too. Where the file system has no locks, as some network mounts,
    nothing is held: who uses this must stay right without it, if with more work.

    Args:
        path: of the lock file; made where it is missing, and left behind empty.
        waiting: called once if somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file lets go
