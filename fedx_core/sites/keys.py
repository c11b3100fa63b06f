"""Who somebody is: a name, a pair of keys to sign with, and one to open sealed letters with.

    Keys     both secret halves; they stay in one folder of one machine, readable by its owner
    Public   the other halves; people carry them, and compare the fingerprint by telephone

Signatures are Ed25519, sealed letters X25519 with XSalsa20-Poly1305 (libsodium's sealed boxes).
What is signed begins with its kind and the protocol, so that nothing signed as one thing passes for
another:

    FEDX/order/1 NUL  data  signature of all before it (64 bytes)

Keys end: what they signed is believed until then. Before, they can be followed by others, from a
day that both sides know: the owner signs with the new ones from then on, and for a while others
believe both. Who knows the old ones believes the new ones because the old ones have signed them.

Only this file knows how it is done; :mod:`fedx_core.sites.key_files` keeps keys.
"""

import hashlib
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from fedx_core.base.errors import (
    IdentifierError,
    KeyExpiredError,
    SignatureError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical
from fedx_core.wire.messages import PROTOCOL

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Of sites, and so of their clients: nothing that leads out of a folder or a store."""

SIGNATURE_SIZE = 64

DAY = 24 * 3600
VALID_DAYS = 730
"""For which keys are made if nobody says otherwise."""

LATE_DAYS = 7
"""For which keys that others have followed are still believed, and open letters under way."""

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(rb"FEDX/([a-z]+)/([0-9]{1,9})\0")


@dataclass(frozen=True)
class Public:
    """What others know of a site or a coordinator.

    Args:
        name: matches :data:`NAME`.
        verify: Ed25519 key that checks its signatures, 64 hexadecimal digits.
        seal: X25519 key that seals letters to it, 64 hexadecimal digits.
        expires: seconds since 1970; 0 never.
        successor: keys that follow these, which these have signed; only in one's own files.
        starts: seconds since 1970, from when they do.

    Raises:
        IdentifierError: an impossible name.
        SignatureError: something that is no key.
    """

    name: str
    verify: str
    seal: str
    expires: int = 0
    successor: "Public | None" = None
    starts: int = 0

    def __post_init__(self) -> None:
        check_name(self.name)
        for key in (self.verify, self.seal):
            if not _HEX_KEY.fullmatch(key):
                raise SignatureError(f"a key of {self.name} is not 64 hexadecimal digits")

    @property
    def fingerprint(self) -> str:
        """Name both keys by eight groups of four digits that can be read out."""
        said = {"name": self.name, "verify": self.verify, "seal": self.seal}
        if self.expires:
            said["expires"] = str(self.expires)
        digest = hashlib.sha256(canonical(said)).hexdigest()
        return " ".join(digest[start : start + 4] for start in range(0, 32, 4))

    def believed(self, now: float) -> tuple["Public", ...]:
        """Give the keys whose signatures are believed now: both while one follows the other."""
        if self.successor is None:
            return (self,)
        if now < self.starts + LATE_DAYS * DAY:
            return (self, self.successor)
        return (self.successor,)

    def current(self, now: float) -> "Public":
        """Give the keys that letters are sealed to now."""
        return self if self.successor is None or now < self.starts else self.successor


@dataclass(frozen=True)
class Keys:
    """Both secret halves of who somebody is; neither shown nor pickled.

    Args:
        name: matches :data:`NAME`.
        signing: seed of the Ed25519 key, 32 bytes.
        sealing: X25519 key, 32 bytes.
        expires: seconds since 1970; 0 never.
        others: keys before or after these, which letters under way may be sealed to.
    """

    name: str
    signing: bytes = field(repr=False)
    sealing: bytes = field(repr=False)
    expires: int = 0
    others: tuple["Keys", ...] = field(default=(), repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the keys of {self.name} stay in their process; load them where they are")

    @property
    def public(self) -> Public:
        """What others may know."""
        return Public(
            self.name,
            bytes(SigningKey(self.signing).verify_key).hex(),
            bytes(PrivateKey(self.sealing).public_key).hex(),
            self.expires,
        )

    def sign(self, kind: str, data: bytes) -> bytes:
        """Sign bytes as one kind of thing, such as ``order``: the 64 bytes of the signature."""
        return SigningKey(self.signing).sign(_head(kind) + data).signature

    def signed(self, kind: str, data: bytes) -> bytes:
        """Return bytes with their kind before them and their signature behind."""
        return _head(kind) + data + self.sign(kind, data)

    def open(self, data: bytes) -> bytes:
        """Open a letter that was sealed to these keys.

        Raises:
            SignatureError: it was sealed to others, or changed.
        """
        for each in (self, *self.others):
            with suppress(CryptoError, ValueError, TypeError):
                return SealedBox(PrivateKey(each.sealing)).decrypt(data)
        raise SignatureError(
            f"a letter of {len(data)} bytes can't be opened with the keys of {self.name}: it "
            "was sealed to others or changed on its way; check that the coordinator has "
            "admitted the keys that this site has now"
        )


def make(name: str, valid_days: int = VALID_DAYS) -> Keys:
    """Draw keys from the machine's source of randomness.

    Args:
        name: of their owner.
        valid_days: until they expire; 0 never.

    Raises:
        IdentifierError: an impossible name.
    """
    expires = int(time.time()) + valid_days * DAY if valid_days else 0
    return Keys(
        check_name(name), bytes(SigningKey.generate()), bytes(PrivateKey.generate()), expires
    )


def verify(public: Public, kind: str, data: bytes, signature: bytes) -> None:
    """Check a signature of :meth:`Keys.sign`, by these keys or those that follow them.

    Raises:
        SignatureError: another key, kind or protocol signed it, or it signs other bytes.
        KeyExpiredError: its keys signed it, but are not believed any more.
    """
    now = time.time()
    for each in public.believed(now):
        with suppress(CryptoError, ValueError, TypeError):
            VerifyKey(bytes.fromhex(each.verify)).verify(_head(kind) + data, signature)
            return check_time(each, now)
    raise SignatureError(
        f"this {kind} is not signed by {public.name} (fingerprint {public.fingerprint}): it "
        "was changed, or comes from somebody else; nothing was done with it"
    )


def check_time(keys: Public | Keys, now: float) -> None:
    """Refuse keys that have expired.

    Raises:
        KeyExpiredError: they have; says when.
    """
    if keys.expires and now >= keys.expires:
        raise KeyExpiredError(
            f"the keys of {keys.name} expired on {day(keys.expires)}; its people make others with "
            "`fedx site enroll` in a new folder, and they are admitted or trusted anew "
            "(`fedx site rotate` before that day needs no telephone)"
        )


def day(seconds: int) -> str:
    """Write a day in UTC, such as ``2027-03-01``."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def unsigned(public: Public, kind: str, letter: bytes) -> bytes:
    """Undo :meth:`Keys.signed`.

    Raises:
        VersionError: it is of another protocol.
        SignatureError: as :func:`verify`, or it is something else altogether.
    """
    head = _HEAD.match(letter)
    if head is None or head[1] != kind.encode():
        raise SignatureError(
            f"{len(letter)} bytes that are no FedX {kind}; the other side runs something else"
        )
    if int(head[2]) != PROTOCOL:
        raise VersionError(
            f"{kind} of protocol {int(head[2])}, this is protocol {PROTOCOL}; "
            "install one version of FedX at the coordinator and at all sites"
        )
    data, signature = letter[head.end() : -SIGNATURE_SIZE], letter[-SIGNATURE_SIZE:]
    if head[0] != _head(kind):  # such as FEDX/order/01
        raise SignatureError(f"a FedX {kind} that does not begin as one; it was changed")
    verify(public, kind, data, signature)
    return data


def seal(public: Public, data: bytes) -> bytes:
    """Seal bytes so that only the owner of these keys, or of those that follow them, opens them.

    Raises:
        KeyExpiredError: nobody is written to at keys that have expired.
    """
    now = time.time()
    current = public.current(now)
    check_time(current, now)
    return SealedBox(PublicKey(bytes.fromhex(current.seal))).encrypt(data)


def check_name(name: str) -> str:
    """Return a name that may stand in folders and keys.

    Raises:
        IdentifierError: it may not.
    """
    if not NAME.fullmatch(name):
        raise IdentifierError(
            f"impossible name {name[:80]!r}; use small letters, digits and dashes, 63 at most"
        )
    return name


def _head(kind: str) -> bytes:
    return f"FEDX/{kind}/{PROTOCOL}\0".encode()
