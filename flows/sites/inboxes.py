"""Where each site looks next for an order, as its coordinator knows it.

    sites/inboxes/north.json   {"bucket": "fedx", "key": "inbox/north/5d…", "expires": 1763…}

Each letter grants the key at which the next one will lie, so keys form a chain that only the
coordinator can work out. Letters are created where the chain is free: two runs that use one site
find each other's letters there, and go one further. A site follows the chain and misses none.

So an answer shows that its site has read the letter that asked for it, and is done with all before
it: these letters go. One that nobody answers goes when the grants in it have expired.
"""

import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from fedx_core.base import strict_json
from fedx_core.base.errors import AlreadyExistsError, PayloadError, SiteError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.base.locks import exclusive
from fedx_core.sites.grants import Grant
from fedx_core.sites.orders import MAX_ORDER, inbox_prefix
from fedx_core.sites.presigner import MARGIN_SECONDS, MOST_SECONDS, Presigner
from fedx_core.sites.registry import Registry
from fedx_core.store import FileStore, S3Store
from fedx_core.wire.messages import LARGEST_RECORD

READY = "/ready"
"""Ends what a letter is about that grants a payload whose length the site has said."""
INBOX_SECONDS = MOST_SECONDS - MARGIN_SECONDS
"""How long a site may look for its next letter; after that it has to be woken, or invited anew."""


@dataclass(frozen=True)
class Letter:
    """A letter that lies in an inbox.

    Args:
        key: where.
        about: job that it asks for, see :func:`fedx_core.sites.notes.digest`; and :data:`READY`.
        expires: when nothing can be done with it any more, in seconds since 1970.
    """

    key: str
    about: str
    expires: float


@dataclass(frozen=True)
class Inbox:
    """Where one site looks.

    Args:
        bucket: of S3.
        key: of the letter that it waits for.
        expires: seconds since 1970; 0 where it was never told of that key.
        letters: that lie there still, in the order in which they were sent.
    """

    bucket: str
    key: str
    expires: float
    letters: tuple[Letter, ...] = ()


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
        plain_http: see :func:`fedx_core.sites.http_client.check_address`.
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
            self._note(site, replace(inbox, expires=grant.expires))
        return grant

    def send(self, site: str, write: Callable[[Grant], bytes], about: str) -> Sent:
        """Send a letter.

        Args:
            site: to whom.
            about: see :class:`Letter`.
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
            lying = (*self._cleared(inbox.letters), Letter(key, about, following.expires))
            self._note(site, replace(inbox, key=following.key, expires=following.expires,
                                     letters=lying))  # fmt: skip
        return Sent(letter, key, expected=inbox.expires > time.time())

    def answered(self, site: str, *about: str) -> None:
        """Clear away what a site has read by now, since it has answered.

        Args:
            site: that has answered.
            about: what its answer may be to; of these the first that it was sent a letter about.

        Raises:
            StoreError: the store does not answer; the next answer clears these letters away, too.
        """
        with self._alone(site):
            inbox = self._known(site)
            topics = [letter.about for letter in inbox.letters]
            if (read := next((topic for topic in about if topic in topics), None)) is None:
                return
            count = topics.index(read) + 1
            for letter in inbox.letters[:count]:
                self.store.delete(letter.key)
            self._note(site, replace(inbox, letters=inbox.letters[count:]))

    def _cleared(self, letters: tuple[Letter, ...]) -> tuple[Letter, ...]:
        """Delete letters that have expired, and return the others."""
        old = [letter for letter in letters if letter.expires < time.time()]
        for letter in old:
            self.store.delete(letter.key)
        return tuple(letter for letter in letters if letter not in old)

    def _known(self, site: str) -> Inbox:
        data = self._files.read(_file(site))
        if data is not None:
            try:
                inbox = parse(Inbox, strict_json.loads(data, LARGEST_RECORD))
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

    def _note(self, site: str, inbox: Inbox) -> None:
        self._files.put(_file(site), canonical(inbox))

    def _alone(self, site: str) -> AbstractContextManager[None]:
        return exclusive(self._registry.folder / f"inboxes/.{site}.lock")


def _file(site: str) -> str:
    return f"inboxes/{site}.json"
