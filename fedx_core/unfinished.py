"""Files that are being written beside their place, and those that a killed writer has left there.

    .NAME.<32 digits>    locked by whoever writes it, until it has its name or is gone

The kernel takes a dead writer's lock away. So what can be locked has no writer any more and may go,
however old it is, and what a living one has under way stays, however long it takes. Where the file
system has no locks, as some network mounts, nothing is ever taken for left behind.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if name.exists():
            return Beside(name, file)
        file.close()  # somebody has swept between the two steps


def _is_swept(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # locked, or gone, or not ours to delete
        return False
    return True
