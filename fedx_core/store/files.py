"""Objects as files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fedx_core.base import unfinished
from fedx_core.base.errors import AlreadyExistsError, StoreError
from fedx_core.store.base import Buffer, check_key, check_size, checked, reference
from fedx_core.wire.messages import Ref


class FileStore:
    """Files under a folder, each written beside its place and then moved there at once."""

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self.durable = durable

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        """Keep an object: never half-written, and if durable on disk when this returns."""
        path = self._path(key)
        with self._write_beside(path, data) as beside:
            beside.replace(path)
        return reference(key, data, sha256)

    def create(self, key: str, data: Buffer) -> Ref:
        """Keep an object under a free key; a hard link decides who was first, or a lock."""
        path = self._path(key)
        if path.exists():
            raise AlreadyExistsError(f"key {key!r} is taken in {self.root}")
        with self._write_beside(path, data) as beside:
            try:
                unfinished.put_once(beside, path)
            except FileExistsError as error:
                raise AlreadyExistsError(f"key {key!r} is taken in {self.root}") from error
        return reference(key, data)

    def get(self, ref: Ref) -> Buffer:
        """Return an object, its hash checked."""
        return checked(ref, self.read(ref.key, ref.size))

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Return the bytes under a key, or None."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                check_size(key, size, limit)
                return file.read(size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _explained(error, path) from error

    def delete(self, key: str) -> None:
        """Forget an object."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _explained(error, path) from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def sweep(self) -> None:
        """Delete what killed writers have left; see :mod:`fedx_core.base.unfinished`."""
        unfinished.sweep(self.root)

    @contextlib.contextmanager
    def _write_beside(self, path: Path, data: Buffer) -> Iterator[Path]:
        """Write bytes beside their place, which whoever asks then gives them."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.beside(path) as under_way:
                under_way.write(data, durable=self.durable)
                yield under_way.path
                self._sync_folder(path.parent)
        except StoreError:
            raise
        except OSError as error:
            raise _explained(error, path) from error

    def _sync_folder(self, folder: Path) -> None:
        if not self.durable:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explained(error: OSError, path: Path) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(
        f"can't write or read {path}: {reason}; free or choose another disk "
        "(--run-root, --store), then `fedx resume`: the last committed round is intact"
    )
