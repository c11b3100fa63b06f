"""Folders that are replaced whole: a reader sees the earlier one or the later one.

.NAME.lock    held by who moves folders, and together by who reads
.NAME.old     between its two moves what was there before; a killed writer's is put back
"""

import errno
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from fedx_core.base import locks

T = TypeVar("T")


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


def steadily(folder: Path, read: Callable[[], T]) -> T:
    """Read while nobody puts another folder in this one's place, or in that of the one around it.

    Args:
        folder: that is read.
        read: what is done, perhaps more than once.

    Returns:
        What it returns.
    """
    places = (folder.resolve().parent, folder.resolve())
    while True:
        with ExitStack() as held:
            for place in places:
                _put_back(place)
            # Where there is no lock yet nobody has replaced anything, or is about to.
            free = [p for p in places if not held.enter_context(locks.shared(_lock(p)))]
            try:
                found = read()
            except Exception:  # halves of two sets fail in any way; a whole one raises
                if not any(_lock(place).exists() for place in free):
                    raise
            else:
                if not any(_lock(place).exists() for place in free):
                    return found


def _put_back(folder: Path) -> None:
    """Undo the first of two moves, if their writer was killed there."""
    old = _old(folder)
    if not folder.exists() and old.is_dir():
        with suppress(OSError), locks.exclusive(_lock(folder)):
            if not folder.exists():
                old.rename(folder)


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
