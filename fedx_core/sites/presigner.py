"""Grants, as the coordinator makes them: URLs that S3 itself holds to one object, verb and length.

What is signed: the key, the verb, when it ends; and of something to be stored its exact length, and
that the key must be free. So a site that changes any of these, or stores twice, is refused by S3.
"""

import math
import time

from fedx_core.base.errors import ConfigError
from fedx_core.sites.grants import Grant
from fedx_core.sites.http_client import check_address, keep_signatures_out_of_logs
from fedx_core.store import S3Store, Store

MARGIN_SECONDS = 300.0
"""Added to each grant's life: clocks of coordinator and store may differ by that much."""

MOST_SECONDS = 7 * 24 * 3600.0
"""S3 takes no URL that is to live longer."""


class Presigner:
    """Signs with the coordinator's own credentials.

    Args:
        store: that the objects are in; S3, since only a server can hold others to a grant.
        plain_http: see :func:`fedx_core.sites.http_client.check_address`.

    Raises:
        ConfigError: another kind of store, or one that is reached by plain HTTP off loopback.
    """

    def __init__(self, store: Store, *, plain_http: bool = False) -> None:
        if not isinstance(store, S3Store):
            raise ConfigError(
                "sites reach the store by signed URLs, which only S3 has; use s3://BUCKET for "
                "--store (`make up` starts an S3 server on this machine)"
            )
        check_address(store.endpoint, plain_http=plain_http)
        keep_signatures_out_of_logs()
        self._store = store

    @property
    def bucket(self) -> str:
        """Name of the bucket that the store is in."""
        return self._store.bucket

    def get(self, key: str, size: int, seconds: float) -> Grant:
        """Grant to fetch an object.

        Args:
            key: of the object, which need not be there yet.
            size: bytes that it has at most.
            seconds: that the grant shall live; clocks may differ by :data:`MARGIN_SECONDS`.
        """
        life, expires = _life(seconds)
        url = self._store.presigned("get_object", key, life)
        return Grant("get", key, size, url, {}, expires)

    def put(self, key: str, size: int, seconds: float) -> Grant:
        """Grant to store an object of exactly that length, if there is none.

        Args:
            key: of the object.
            size: its bytes.
            seconds: as in :meth:`get`.
        """
        life, expires = _life(seconds)
        url = self._store.presigned("put_object", key, life, ContentLength=size, IfNoneMatch="*")
        return Grant("put", key, size, url, {"If-None-Match": "*"}, expires)


def _life(seconds: float) -> tuple[int, float]:
    life = math.ceil(min(seconds + MARGIN_SECONDS, MOST_SECONDS))
    return life, time.time() + life
