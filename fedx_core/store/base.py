"""The verbs of a store, and what all stores check."""

import hashlib
import re
from typing import Protocol

from fedx_core.base.errors import (
    AlreadyExistsError,
    ObjectMissingError,
    PayloadError,
    StoreError,
    TooBigError,
)
from fedx_core.wire.messages import Ref

Buffer = bytes | bytearray | memoryview

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class Store(Protocol):
    """The verbs; see :mod:`fedx_core.store`."""

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        """Keep an object under a key, replacing what was there.

        Args:
            key: of the object.
            data: its bytes.
            sha256: of them, hexadecimal, where the caller has worked it out.
        """

    def create(self, key: str, data: Buffer) -> Ref:
        """Keep an object under a free key.

        Raises:
            AlreadyExistsError: the key is taken.
        """

    def get(self, ref: Ref) -> Buffer:
        """Return an object's bytes.

        Raises:
            ObjectMissingError: there is none.
            TooBigError: it is longer than the reference says; it is not fetched.
            PayloadError: its length or hash is not the reference's.
        """

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Return the bytes under a key, or None.

        Args:
            key: of the object.
            limit: bytes that are fetched at most; None where whoever wrote it is trusted.

        Raises:
            TooBigError: it is longer than the limit; it is not fetched.
        """

    def delete(self, key: str) -> None:
        """Forget an object, if it is there."""


def reference(key: str, data: Buffer, sha256: str | None = None) -> Ref:
    """Name bytes by key, SHA-256 (worked out unless it is known) and length."""
    return Ref(key, sha256 or hashlib.sha256(data).hexdigest(), len(data))


def put_by_hash(store: Store, prefix: str, data: Buffer) -> Ref:
    """Keep an object under its own hash; putting it twice changes nothing."""
    sha256 = reference(prefix, data).sha256
    return store.put(f"{prefix}/{sha256}", data, sha256)


def create_once(store: Store, key: str, data: Buffer) -> Ref:
    """Create an object, content with one that is there already if it has the same bytes.

    Raises:
        AlreadyExistsError: the key holds other bytes.
    """
    try:
        return store.create(key, data)
    except AlreadyExistsError:
        ref = reference(key, data)
        if not holds(store, key, data):
            raise
        return ref


def holds(store: Store, key: str, data: Buffer) -> bool:
    """Tell whether a key holds exactly these bytes."""
    try:
        present = store.read(key, len(data))
    except TooBigError:
        return False
    return present is not None and reference(key, present) == reference(key, data)


def checked(ref: Ref, data: Buffer | None) -> Buffer:
    """Return bytes that are what their reference says.

    Raises:
        ObjectMissingError: there are none.
        PayloadError: their length or hash is another one.
    """
    if data is None:
        raise ObjectMissingError(f"no object {ref.key!r} in the store")
    if len(data) != ref.size or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise PayloadError(
            f"object {ref.key!r} is corrupt: {len(data)} bytes, wanted {ref.size} with SHA-256 "
            f"{ref.sha256[:12]}…; it was truncated or changed"
        )
    return data


def check_size(key: str, size: int, limit: int | None) -> None:
    """Refuse an object before it is fetched.

    Raises:
        TooBigError: it is longer than the limit.
    """
    if limit is not None and size > limit:
        raise TooBigError(
            f"object {key!r} is corrupt: {size} bytes, wanted {limit} at most; it was not fetched"
        )


def check_key(key: str) -> str:
    """Return a key that can name an object anywhere, and leads out of no folder.

    Raises:
        StoreError: it can't.
    """
    if not _KEY.fullmatch(key):
        raise StoreError(
            f"impossible key {key!r}: letters, digits, dots, dashes and single slashes"
        )
    return key
