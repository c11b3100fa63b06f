"""Folders that are replaced whole: a reader sees the earlier one or the later one.

.NAME.lock    held by who moves folders, and together by who reads
.NAME.old     between its two moves what was there before; a killed writer's is put back
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fedx_core import locks


def put(beside: Path, folder: Path) -> None:
    """Move a folder to its place, and what was there to where it came from.

    Raises:
        OSError: it can't be moved; what was there is there.
    """
    old, lock = _old(folder), _lock(folder)
    # In this order: who moves a folder away has made the lock file before.
    if not folder.exists() and not lock.exists() and _is_moved(beside, folder):
        return  # nobody can read yet what was never there
    with locks.exclusive(lock):
        try:
            while not _is_moved(beside, folder):
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
        except OSError:
            if old.is_dir() and not folder.exists():
                old.rename(folder)
            raise
        if old.is_dir():
            old.rename(beside)


def _is_moved(beside: Path, folder: Path) -> bool:
    """Move a folder to where nothing is, or an empty folder."""
    try:
        beside.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


@contextmanager
def steady(folder: Path) -> Iterator[None]:
    """Let nobody put another set in a folder's place, or another folder of shards around it."""
    with ExitStack() as held:
        for place in (folder.resolve().parent, folder.resolve()):
            if not place.exists() and (old := _old(place)).is_dir():
                # A writer was killed between its two moves, or is between them.
                with suppress(OSError), locks.exclusive(_lock(place)):
                    if not place.exists():
                        old.rename(place)
            held.enter_context(locks.shared(_lock(place)))
        yield


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
