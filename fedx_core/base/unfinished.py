"""What is being written beside its place, and what a killed writer has left there.

    .NAME.<32 digits>        a file, locked by whoever writes it, until it has its name or is gone
    .NAME.<32 digits>.new    a folder, whose writer has locked the file without .new

The kernel takes a dead writer's lock away. So what can be locked has no writer any more and may go,
however old it is, and what a living one has under way stays, however long it takes. Where the file
system has no locks, as some network mounts, nothing is ever taken for left behind.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedx_core.base import locks

_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
_NAME = re.compile(r"\..+\.[0-9a-f]{32}")


@dataclass(frozen=True)
class Beside:
    """A file under way.

    Args:
        path: of it.
        file: open for writing.
    """

    path: Path
    file: BinaryIO

    def write(self, data: bytes | bytearray | memoryview, *, durable: bool) -> None:
        """Write it all.

        Args:
            data: bytes.
            durable: whether they are forced onto the disk.
        """
        self.file.write(data)
        self.file.flush()
        if durable:
            os.fsync(self.file.fileno())


@contextmanager
def beside(path: Path, mode: int = 0o666) -> Iterator[Beside]:
    """Open a new file beside a path, to be moved or linked there; what is left of it goes.

    Args:
        path: where the file is to be in the end; its folder is there.
        mode: permissions of the file, from which the umask is taken.

    Raises:
        OSError: the folder can't be written.
    """
    under_way = _begun(path, mode)
    try:
        yield under_way
    finally:
        with suppress(OSError):
            under_way.path.unlink(missing_ok=True)
        with suppress(OSError):  # what could not be written was said when it was tried
            under_way.file.close()


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Make a new folder beside a path, to be moved there; what is left of it goes.

    What killed writers have left of such folders of the same path goes first.

    Raises:
        OSError: the folder can't be made.
    """
    for left in path.parent.glob(f".{path.name}.*.new"):
        lock = left.with_suffix("")
        if _NAME.fullmatch(lock.name) and (not lock.exists() or _is_swept(lock)):
            shutil.rmtree(left, ignore_errors=True)
    with beside(path) as writer:
        folder = writer.path.with_name(f"{writer.path.name}.new")
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def put_once(under_way: Path, path: Path) -> None:
    """Give what is written beside a path its name, if that is free.

    A hard link decides who is first. Where the file system has none (exFAT, some network mounts),
    those of one machine take turns.

    Raises:
        FileExistsError: the name is taken.
        OSError: the folder can't be written.
    """
    try:
        os.link(under_way, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with locks.exclusive(path.with_name(".once.lock")):
            if path.exists():
                raise FileExistsError(errno.EEXIST, "it is there", str(path)) from error
            under_way.replace(path)


def sweep(folder: Path) -> int:
    """Delete what killed writers have left below a folder; count it.

    Anybody may do so at any time: files of living writers are left alone.
    """
    count = 0
    for root, _, names in os.walk(folder):
        count += sum(_is_swept(Path(root) / name) for name in names if _NAME.fullmatch(name))
    return count


def _begun(path: Path, mode: int) -> Beside:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        name = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        file = os.fdopen(os.open(name, flags, mode), "wb")
        locks.hold(file)  # who sweeps may have it already, and is about to delete it
        if name.exists():
            return Beside(name, file)
        file.close()  # somebody has swept between the two steps


def _is_swept(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if not locks.is_free(file):
                return False
            path.unlink()
    except OSError:  # gone, or not ours to delete
        return False
    return True
