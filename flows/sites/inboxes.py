"""Where each site looks next for an order, as its coordinator knows it.

    sites/inboxes/north.json   {"bucket": "fedx", "key": "inbox/north/5d…", "expires": 1763…}

Each letter grants the key at which the next one will lie, so keys form a chain that only the
coordinator can work out. Letters are created where the chain is free: two runs that use one site
find each other's letters there, and go one further. A site follows the chain and misses none.
"""

import hmac
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from fedx_core.errors import AlreadyExistsError, PayloadError, SiteError
from fedx_core.messages import canonical, parse
from fedx_core.sites.grants import Grant
from fedx_core.sites.orders import MAX_ORDER, inbox_prefix
from fedx_core.sites.presigner import MARGIN_SECONDS, MOST_SECONDS, Presigner
from fedx_core.sites.registry import Registry
from fedx_core.store import FileStore, S3Store
from flows.locks import exclusive

INBOX_SECONDS = MOST_SECONDS - MARGIN_SECONDS
"""How long a site may look for its next letter; after that it has to be woken, or invited anew."""


@dataclass(frozen=True)
class Inbox:
    """Where one site looks.

    Args:
        bucket: of S3.
        key: of the letter that it waits for.
        expires: seconds since 1970; 0 where it was never told of that key.
    """

    bucket: str
    key: str
    expires: float


@dataclass(frozen=True)
class Sent:
    """A letter that was sent.

    Args:
        letter: its bytes.
        key: where it lies.
        expected: whether the site was granted that key, and the grant is good for now.
    """

    letter: bytes
    key: str
    expected: bool


class Inboxes:
    """The inboxes of a coordinator's sites in one bucket.

    Args:
        registry: of the sites; its folder keeps the records.
        bucket: name of the bucket.
        plain_http: see :func:`fedx_core.sites.wire.check_address`.
    """

    def __init__(self, registry: Registry, bucket: str, *, plain_http: bool = False) -> None:
        self.store = S3Store(bucket, "")
        self._presigner = Presigner(self.store, plain_http=plain_http)
        self._registry = registry
        self._secret = registry.keys.signing
        self._files = FileStore(registry.folder)

    def invite(self, site: str) -> Grant:
        """Grant a site the place of its next letter."""
        with self._alone(site):
            inbox = self._known(site)
            grant = self._granted(inbox.key)
            self._note(site, inbox.key, grant.expires)
        return grant

    def send(self, site: str, write: Callable[[Grant], bytes]) -> Sent:
        """Send a letter.

        Args:
            site: to whom.
            write: makes the letter from the grant of the place where the next one will lie.

        Raises:
            StoreError: the store does not answer; nothing was sent.
        """
        with self._alone(site):
            inbox = self._known(site)
            key = inbox.key
            while True:
                following = self._granted(self._next(site, key))
                letter = write(following)
                try:
                    self.store.create(key, letter)
                    break
                except AlreadyExistsError:
                    key = following.key
            self._note(site, following.key, following.expires)
        return Sent(letter, key, expected=inbox.expires > time.time())

    def _known(self, site: str) -> Inbox:
        data = self._files.read(_file(site))
        if data is not None:
            try:
                inbox = parse(Inbox, json.loads(bytes(data)))
            except (PayloadError, ValueError) as error:
                path = self._registry.folder / _file(site)
                raise SiteError(f"{path} is damaged ({error}); delete it, and {site} is woken or "
                                "invited anew") from error  # fmt: skip
            if inbox.bucket == self.store.bucket:
                return inbox
        return Inbox(self.store.bucket, f"{inbox_prefix(site)}{secrets.token_hex(32)}", 0.0)

    def _next(self, site: str, key: str) -> str:
        found = hmac.digest(self._secret, b"FEDX/inbox\0" + key.encode(), "sha256").hex()
        return f"{inbox_prefix(site)}{found}"

    def _granted(self, key: str) -> Grant:
        return self._presigner.get(key, MAX_ORDER, INBOX_SECONDS)

    def _note(self, site: str, key: str, expires: float) -> None:
        self._files.put(_file(site), canonical(Inbox(self.store.bucket, key, expires)))

    def _alone(self, site: str) -> AbstractContextManager[None]:
        return exclusive(self._registry.folder / f"inboxes/.{site}.lock")


def _file(site: str) -> str:
    return f"inboxes/{site}.json"
