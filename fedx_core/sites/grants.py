"""One object each: a URL that fetches it, or stores it once, and ends."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedx_core.base.errors import (
    AlreadyExistsError,
    GrantError,
    ObjectMissingError,
    PayloadError,
    TooBigError,
)
from fedx_core.sites.http_client import Buffer, HttpClient, Reply
from fedx_core.store import Store, reference
from fedx_core.wire.messages import Ref

Verb = Literal["get", "put"]


@dataclass(frozen=True)
class Grant:
    """What one site may do with one object, for a while.

    Args:
        verb: ``get`` fetches it, ``put`` stores it if its key is free.
        key: of the object in the coordinator's store.
        size: bytes that are fetched at most, or stored exactly.
        url: signed; whoever has it may do the same, so it is never shown.
        headers: to be sent along, as they were signed.
        expires: seconds since 1970, by the coordinator's clock.
    """

    verb: Verb
    key: str
    size: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    expires: float


class GrantedStore:
    """A store that can do exactly what its grants say; see :class:`fedx_core.store.Store`.

    What is stored, is stored once: ``put`` does as ``create``. Nothing can be deleted.

    Args:
        grants: that may be used.
        sent: takes the hash of what is stored under each key, so that a site that was killed in
            the middle of it knows its own object again; None keeps no such notes.
        http: carries the requests.
    """

    def __init__(self, grants: Iterable[Grant], sent: Store | None, http: HttpClient) -> None:
        self._grants = {(grant.verb, grant.key): grant for grant in grants}
        self._sent = sent
        self._http = http

    def allows(self, verb: Verb, key: str) -> bool:
        """Tell whether something is granted."""
        return (verb, key) in self._grants

    def get(self, ref: Ref) -> Buffer:
        """Fetch an object by its reference.

        Raises:
            GrantError: it is not granted, or the grant was refused.
            ObjectMissingError: there is none.
            PayloadError: its length or hash is not the reference's.
        """
        if not self.allows("get", ref.key):
            raise GrantError(f"{ref.key!r} is not granted; the coordinator's order lacks it")
        if (data := self.read(ref.key, ref.size)) is None:
            raise ObjectMissingError(f"no object {ref.key!r} in the coordinator's store")
        if (found := reference(ref.key, data)) != ref:
            raise PayloadError(
                f"object {ref.key!r} is corrupt: {found.size} bytes, wanted {ref.size} with "
                f"SHA-256 {ref.sha256[:12]}…; it was truncated or changed"
            )
        return data

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        """Fetch an object by its key; None if there is none, or none is granted.

        Args:
            key: of the object.
            limit: bytes that are fetched at most; the grant's if that is less.

        Raises:
            GrantError: the grant was refused.
            StoreError: the store does not answer.
            TooBigError: it is longer than the grant says.
        """
        if (grant := self._grants.get(("get", key))) is None:
            return None
        most = grant.size if limit is None else min(grant.size, limit)
        reply = self._http.get(grant.url, most, repr(key), dict(grant.headers))
        if reply.status == 404:
            return None
        _check(reply, grant)
        return reply.data

    def create(self, key: str, data: Buffer) -> Ref:
        """Store an object; one of the same bytes that this site has stored there is no conflict.

        Raises:
            GrantError: it is not granted, or the grant was refused.
            TooBigError: the grant is for another length; nothing was sent.
            AlreadyExistsError: the key holds something else.
            StoreError: the store does not answer.
        """
        if (grant := self._grants.get(("put", key))) is None:
            raise GrantError(f"storing {key!r} is not granted; the coordinator's order lacks it")
        if len(data) != grant.size:
            raise TooBigError(
                f"{len(data)} bytes for {key!r}, the grant is for {grant.size}; site and "
                "coordinator derive different payloads, install the same version of FedX"
            )
        ref = reference(key, data)
        before = self._hash_sent(key)
        if self._sent is not None and before is None:
            self._sent.put(key, ref.sha256.encode())
        reply = self._http.put(grant.url, data, repr(key), dict(grant.headers))
        # An answer that got lost makes the next attempt meet its own object.
        if reply.status == 412 and not (reply.repeated or before == ref.sha256):
            raise AlreadyExistsError(f"{key!r} holds something that this site did not store")
        if reply.status != 412:
            _check(reply, grant)
            if self._sent is not None and before not in (None, ref.sha256):
                self._sent.put(key, ref.sha256.encode())
        return ref

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        """Store an object as :meth:`create` does: nobody can replace one."""
        return self.create(key, data)

    def delete(self, key: str) -> None:
        """Refuse: nothing that was stored can be taken back.

        Raises:
            GrantError: always.
        """
        raise GrantError(f"deleting {key!r} is not granted to any site")

    def _hash_sent(self, key: str) -> str | None:
        if self._sent is None or (found := self._sent.read(key)) is None:
            return None
        return bytes(found).decode()


def _check(reply: Reply, grant: Grant) -> None:
    if reply.status in (200, 201, 204):
        return
    said = f"HTTP {reply.status}{f' {reply.code}' if reply.code else ''}"
    left = grant.expires - time.time()
    when = f"it expired {-left:.0f} s ago" if left < 0 else f"it has {left:.0f} s left"
    raise GrantError(
        f"the store refuses to {grant.verb} {grant.key!r} ({said}); by this machine's clock "
        f"{when}; the coordinator grants it anew with its next order"
    )
