"""Where bytes are kept: memory, files or S3 behind the same few verbs.

    put     an object, named by the caller; its reference carries hash and length
    get     an object by reference; no more than its length is fetched, and the hash is checked
    create  an object only if its key is free: the one thing that two servers can race for
    read    an object by key, or None; for the keys that are known in advance (journal, reports)
    delete  an object, if it is there

Nothing is ever listed: every key can be derived from the journal.

An object is there whole or not at all. A store of files also forces it onto the disk before it goes
on, unless it is opened as not ``durable``: then the machine going down (not the process) may take
the last seconds' objects along, or leave them cut short, and whoever wrote them has to be able to
write them again.
"""

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from fedx_core import unfinished
from fedx_core.errors import (
    AlreadyExistsError,
    ConfigError,
    ObjectMissingError,
    PayloadError,
    StoreError,
    TooBigError,
)
from fedx_core.messages import Ref

Buffer = bytes | bytearray | memoryview

_TRIES = 5
_PAUSE_SECONDS = 0.2
_ADVICE = {
    "RequestTimeTooSkewed": "set this machine's clock, then `fedx resume`",
    "SlowDown": "S3 wants fewer requests; wait, then `fedx resume`",
}

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class Store(Protocol):
    """The verbs; see the module's docstring."""

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
        if not _holds(store, key, data):
            raise
        return ref


def _holds(store: Store, key: str, data: Buffer) -> bool:
    """Tell whether a key holds exactly these bytes."""
    try:
        present = store.read(key, len(data))
    except TooBigError:
        return False
    return present is not None and reference(key, present) == reference(key, data)


def open_store(uri: str, *, durable: bool = True) -> Store:
    """Open a store by its URI.

    Args:
        uri: ``memory://NAME`` (this process only), ``s3://BUCKET/PREFIX`` (credentials and
            endpoint from boto3's environment, ``AWS_ENDPOINT_URL_S3`` among it), ``file:///PATH``
            or a plain path.
        durable: whether files are forced onto the disk; see the module's docstring.

    Raises:
        ConfigError: another scheme.
    """
    parts = urlsplit(uri)
    if parts.scheme == "memory":
        with _memory_lock:
            return _memories.setdefault(f"{parts.netloc}{parts.path}", MemoryStore())
    if parts.scheme == "s3":
        return S3Store(parts.netloc, parts.path.strip("/"))
    if parts.scheme in ("file", ""):
        return FileStore(Path(parts.path if parts.scheme else uri), durable=durable)
    raise ConfigError(f"no store for {uri!r}; use memory://, file://, s3:// or a path")


def _checked(ref: Ref, data: Buffer | None) -> Buffer:
    if data is None:
        raise ObjectMissingError(f"no object {ref.key!r} in the store")
    if len(data) != ref.size or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise PayloadError(
            f"object {ref.key!r} is corrupt: {len(data)} bytes, wanted {ref.size} with SHA-256 "
            f"{ref.sha256[:12]}…; it was truncated or changed"
        )
    return data


def _check_size(key: str, size: int, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise TooBigError(
            f"object {key!r} is corrupt: {size} bytes, wanted {limit} at most; it was not fetched"
        )


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StoreError(
            f"impossible key {key!r}: letters, digits, dots, dashes and single slashes"
        )
    return key


class MemoryStore:
    """A dictionary, for threads of one process."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[Ref, Buffer]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        """Keep an object."""
        ref = reference(_check_key(key), data, sha256)
        self._objects[key] = (ref, data)
        return ref

    def create(self, key: str, data: Buffer) -> Ref:
        """Keep an object under a free key."""
        with self._lock:
            if _check_key(key) in self._objects:
                raise AlreadyExistsError(f"key {key!r} is taken")
            return self.put(key, data)

    def get(self, ref: Ref) -> Buffer:
        """Return an object, its hash compared with that of what was put."""
        kept, data = self._objects.get(_check_key(ref.key), (None, None))
        # The object itself is handed out, so there is nothing that hashing it again could find.
        return data if data is not None and kept == ref else _checked(ref, data)

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Return the bytes under a key, or None."""
        data = self._objects.get(_check_key(key), (None, None))[1]
        _check_size(key, len(data or b""), limit)
        return data

    def delete(self, key: str) -> None:
        """Forget an object."""
        self._objects.pop(_check_key(key), None)


_memories: dict[str, MemoryStore] = {}
_memory_lock = threading.Lock()


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
        """Keep an object under a free key; a hard link decides who was first."""
        path = self._path(key)
        if path.exists():
            raise AlreadyExistsError(f"key {key!r} is taken in {self.root}")
        with self._write_beside(path, data) as beside:
            try:
                os.link(beside, path)
            except FileExistsError as error:
                raise AlreadyExistsError(f"key {key!r} is taken in {self.root}") from error
        return reference(key, data)

    def get(self, ref: Ref) -> Buffer:
        """Return an object, its hash checked."""
        return _checked(ref, self.read(ref.key, ref.size))

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Return the bytes under a key, or None."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                _check_size(key, size, limit)
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
        return self.root / _check_key(key)

    def sweep(self) -> None:
        """Delete what killed writers have left; see :mod:`fedx_core.unfinished`."""
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


@lru_cache(maxsize=8)
def _s3_client(process: int, set_up: tuple[tuple[str, str], ...]) -> Any:
    """Return a client, which threads may share; to make one takes a tenth of a second.

    Args:
        process: that it is for; a forked one must not share connections.
        set_up: the environment that it reads.
    """
    from boto3.session import Session
    from botocore.config import Config

    # A session of its own: boto3's shared one is not safe to open clients from in threads.
    return Session().client(
        "s3",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 5},
        ),
    )


class S3Store:
    """Objects in a bucket, under a prefix; ``create`` is S3's ``If-None-Match: *``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        set_up = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        self._client = _s3_client(os.getpid(), set_up)

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        """Keep an object; S3 shows it whole or not at all."""
        self._call("put_object", key, Body=bytes(data))
        return reference(key, data, sha256)

    def create(self, key: str, data: Buffer) -> Ref:
        """Keep an object under a free key."""
        tries = 0
        while True:
            try:
                self._call("put_object", key, Body=bytes(data), IfNoneMatch="*")
                return reference(key, data)
            except StoreError as error:
                status, tries = _status(error), tries + 1
                # A retry after a lost reply meets its own object.
                if status in (409, 412) and _holds(self, key, data):
                    return reference(key, data)
                if status == 412:
                    raise AlreadyExistsError(f"key {key!r} is taken in {self.bucket}") from error
                # 409: somebody was creating it in the same moment, and need not have succeeded.
                if status != 409 or tries == _TRIES:
                    raise
                time.sleep(_PAUSE_SECONDS)

    def get(self, ref: Ref) -> Buffer:
        """Return an object, its hash checked."""
        return _checked(ref, self.read(ref.key, ref.size))

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Return the bytes under a key, or None; the length comes before them."""
        from botocore.exceptions import BotoCoreError

        tries = 0
        while True:
            try:
                return self._fetched(key, limit)
            except ObjectMissingError:
                return None
            except BotoCoreError as error:  # amid the bytes; before them, botocore tries again
                tries += 1
                if tries == _TRIES:
                    raise StoreError(
                        f"get_object s3://{self.bucket}/{self.prefix}{key}: {error}, {tries} "
                        "times; check the network, then `fedx resume`"
                    ) from error
                time.sleep(_PAUSE_SECONDS)

    def _fetched(self, key: str, limit: int | None) -> bytes:
        from botocore.exceptions import IncompleteReadError

        found = self._call("get_object", key)
        with contextlib.closing(found["Body"]) as stream:
            size: int = found["ContentLength"]
            _check_size(key, size, limit)
            body: bytes = stream.read(size)
        if len(body) != size:  # the connection has ended, which nobody else says here
            raise IncompleteReadError(actual_bytes=len(body), expected_bytes=size)
        return body

    def delete(self, key: str) -> None:
        """Forget an object."""
        self._call("delete_object", key)

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        return str(self._client.meta.endpoint_url)

    def presigned(self, verb: str, key: str, seconds: int, **arguments: Any) -> str:
        """Return a URL with which anybody may do one thing with one object until it expires."""
        asked = {"Bucket": self.bucket, "Key": f"{self.prefix}{_check_key(key)}", **arguments}
        return str(self._client.generate_presigned_url(verb, Params=asked, ExpiresIn=seconds))

    def _call(self, verb: str, key: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"s3://{self.bucket}/{self.prefix}{_check_key(key)}"
        try:
            return getattr(self._client, verb)(
                Bucket=self.bucket, Key=f"{self.prefix}{key}", **arguments
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise ObjectMissingError(f"no object at {place}") from error
            advice = _ADVICE.get(error.response["Error"]["Code"])
            if advice is None and error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                advice = "look after the S3 server, then `fedx resume`"
            said = f"{verb} {place}: {error}"
            raise StoreError(f"{said}; {advice}" if advice else said) from error
        except BotoCoreError as error:
            raise StoreError(
                f"{verb} {place}: {error}; check AWS_ENDPOINT_URL_S3 and the network, "
                "then `fedx resume`"
            ) from error


def _status(error: StoreError) -> int:
    """Return with which HTTP status S3 has refused something; 0 where it has not answered."""
    from botocore.exceptions import ClientError

    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return 0
    return int(cause.response["ResponseMetadata"]["HTTPStatusCode"])


def _explained(error: OSError, path: Path) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(
        f"can't write or read {path}: {reason}; free or choose another disk "
        "(--run-root, --store), then `fedx resume`: the last committed round is intact"
    )
