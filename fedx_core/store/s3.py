"""Objects in S3, or a server that speaks its language."""

import contextlib
import os
import time
import uuid
from functools import lru_cache
from typing import Any

from fedx_core.base.errors import AlreadyExistsError, ObjectMissingError, StoreError
from fedx_core.store.base import Buffer, check_key, check_size, checked, holds, reference
from fedx_core.wire.messages import Ref

_TRIES = 5
_PAUSE_SECONDS = 0.2
_ADVICE = {
    "RequestTimeTooSkewed": "set this machine's clock, then `fedx resume`",
    "SlowDown": "S3 wants fewer requests; wait, then `fedx resume`",
}
_REFUSED, _CONFLICT, _NO_RIGHTS, _UNKNOWN = 412, 409, (401, 403), (400, 501)
"""HTTP statuses: the key is taken, or is being created; a right or a header that there is not."""

_conditional: set[tuple[str, str]] = set()
"""Servers and buckets of which this process knows that they refuse a second creation."""


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
        self.check()
        tries = 0
        while True:
            try:
                self._call("put_object", key, Body=bytes(data), IfNoneMatch="*")
                return reference(key, data)
            except StoreError as error:
                status, tries = _status(error), tries + 1
                # A retry after a lost reply meets its own object.
                if status in (_CONFLICT, _REFUSED) and holds(self, key, data):
                    return reference(key, data)
                if status == _REFUSED:
                    raise AlreadyExistsError(f"key {key!r} is taken in {self.bucket}") from error
                # Somebody was creating it in the same moment, and need not have succeeded.
                if status != _CONFLICT or tries == _TRIES:
                    raise
                time.sleep(_PAUSE_SECONDS)

    def check(self) -> None:
        """Make sure, once a process, that what is created can't be created again.

        Who may not write a trial object can't tell, and leaves it to the server of the run.

        Raises:
            StoreError: the S3 server ignores ``If-None-Match``, or does not answer.
        """
        place = (self.endpoint, self.bucket)
        if place in _conditional:
            return
        key = f"trial/{uuid.uuid4().hex}"
        first = self._put_if_free(key, b"first")
        if first not in _NO_RIGHTS:
            second = self._put_if_free(key, b"second")
            with contextlib.suppress(StoreError):
                self.delete(key)
            if second not in (_CONFLICT, _REFUSED):
                raise StoreError(
                    f"the S3 server at {self.endpoint} does not know conditional writes "
                    "(If-None-Match), so two servers of a run would overwrite each other's rounds; "
                    "use a newer version of it or another one, or keep the store in a folder: "
                    "leave --store out and unset FEDX_STORE"
                )
        _conditional.add(place)

    def _put_if_free(self, key: str, data: bytes) -> int:
        """Return 0 where the key was free, else the status with which it was refused."""
        try:
            self._call("put_object", key, Body=data, IfNoneMatch="*")
        except StoreError as error:
            status = _status(error)
            if status not in (_CONFLICT, _REFUSED, *_NO_RIGHTS, *_UNKNOWN):
                raise
            return status
        return 0

    def get(self, ref: Ref) -> Buffer:
        """Return an object, its hash checked."""
        return checked(ref, self.read(ref.key, ref.size))

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
            check_size(key, size, limit)
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
        asked = {"Bucket": self.bucket, "Key": f"{self.prefix}{check_key(key)}", **arguments}
        return str(self._client.generate_presigned_url(verb, Params=asked, ExpiresIn=seconds))

    def _call(self, verb: str, key: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"s3://{self.bucket}/{self.prefix}{check_key(key)}"
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
