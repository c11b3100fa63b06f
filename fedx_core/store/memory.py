"""Objects in this process's memory."""

import threading

from fedx_core.base.errors import AlreadyExistsError
from fedx_core.store.base import Buffer, check_key, check_size, checked, reference
from fedx_core.wire.messages import Ref


class MemoryStore:
    """A dictionary, for threads of one process."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Ref, Buffer]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        """Keep an object."""
        ref = reference(check_key(key), data, sha256)
        self._objects[key] = (ref, data)
        return ref

    def create(self, key: str, data: Buffer) -> Ref:
        """Keep an object under a free key."""
        with self._lock:
            if check_key(key) in self._objects:
                raise AlreadyExistsError(f"key {key!r} is taken")
            return self.put(key, data)

    def get(self, ref: Ref) -> Buffer:
        """Return an object, its hash compared with that of what was put."""
        kept, data = self._objects.get(check_key(ref.key), (None, None))
        # The object itself is handed out, so there is nothing that hashing it again could find.
        return data if data is not None and kept == ref else checked(ref, data)

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Return the bytes under a key, or None."""
        data = self._objects.get(check_key(key), (None, None))[1]
        check_size(key, len(data or b""), limit)
        return data

    def delete(self, key: str) -> None:
        """Forget an object."""
        self._objects.pop(check_key(key), None)


_named: dict[str, MemoryStore] = {}
_lock = threading.Lock()


def named(name: str) -> MemoryStore:
    """Return the store of a name, which all of this process share."""
    with _lock:
        return _named.setdefault(name, MemoryStore())
