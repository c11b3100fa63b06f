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

    keys.json         the keys in use
    keys.next.json    those that follow, and from when
    keys.before.json  those before them, which letters under way may still be sealed to

Only this file knows how it is done.
"""

import hashlib
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from fedx_core.base import strict_json, unfinished
from fedx_core.base.errors import (
    IdentifierError,
    KeyExpiredError,
    PayloadError,
    SignatureError,
    SiteError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.wire.messages import PROTOCOL

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Of sites, and so of their clients: nothing that leads out of a folder or a store."""

FILE, NEXT, BEFORE = "keys.json", "keys.next.json", "keys.before.json"
SIGNATURE_SIZE = 64

DAY = 24 * 3600
VALID_DAYS = 730
"""For which keys are made if nobody says otherwise."""

LATE_DAYS = 7
"""For which keys that others have followed are still believed, and open letters under way."""

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(rb"FEDX/([a-z]+)/([0-9]{1,9})\0")


LARGEST_KEYS = 1 << 16
"""Bytes that a file of keys may have."""


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


def save(keys: Keys, folder: Path, name: str = FILE, starts: int = 0) -> Path:
    """Write keys into a folder, readable by its owner alone; those that are there stay.

    Args:
        keys: to keep.
        folder: of their owner.
        name: of the file.
        starts: seconds since 1970, from when they are used.

    Raises:
        SiteError: the folder holds keys already, or can't be written.
    """
    path = folder / name
    secrets = {
        "name": keys.name,
        "signing": keys.signing.hex(),
        "sealing": keys.sealing.hex(),
        "expires": keys.expires,
        "starts": starts,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with unfinished.beside(path, mode=0o600) as under_way:
            under_way.write(canonical(secrets), durable=True)
            unfinished.put_once(under_way.path, path)  # and never over others
    except FileExistsError:
        raise SiteError(
            f"{path} holds keys already; they are the only ones of their name, so move them away "
            "first if you mean to replace them"
        ) from None
    except OSError as error:
        raise SiteError(f"can't write {path}: {error.strerror}; choose another folder") from None
    return path


def load(folder: Path) -> Keys:
    """Read the keys that are in use; from their day on, those that follow take their place.

    Raises:
        SiteError: there are none, others than their owner may read them, or they are damaged.
        KeyExpiredError: they have expired.
    """
    keys, _ = _read(folder / FILE)
    others = []
    if (folder / NEXT).exists():
        following, starts = _read(folder / NEXT)
        if time.time() >= starts:
            with suppress(SiteError):  # kept already, by whoever came this far before
                save(keys, folder, BEFORE, starts)
            with suppress(FileNotFoundError):  # another process was quicker
                (folder / NEXT).replace(folder / FILE)
            return load(folder)
        others.append(following)
    if (folder / BEFORE).exists():
        before, ended = _read(folder / BEFORE)
        if time.time() < ended + LATE_DAYS * DAY:
            others.append(before)
    check_time(keys, time.time())
    return replace(keys, others=tuple(others))


def _read(path: Path) -> tuple[Keys, int]:
    """Read keys that :func:`save` wrote, and from when they are used."""
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()
    except OSError as error:
        raise SiteError(
            f"no keys at {path} ({error.strerror}); make them with `fedx site enroll NAME`, or "
            "name the site's folder in FEDX_SITE_HOME"
        ) from None
    if mode & 0o077:
        raise SiteError(
            f"{path} can be read by others than its owner (mode {mode & 0o777:o}); "
            f"`chmod 600 {path}`, and enrol anew if somebody may have copied it"
        )
    # No word of what stands in the file, nor a chain to an error that has it.
    try:
        found = strict_json.loads(text, LARGEST_KEYS)
        signing, sealing = (bytes.fromhex(found[n]) for n in ("signing", "sealing"))
        keys = Keys(found["name"], signing, sealing, int(found.get("expires", 0)))
        _ = keys.public
        return keys, int(found.get("starts", 0))
    except (ValueError, KeyError, TypeError, CryptoError, SiteError):
        raise SiteError(f"{path} is damaged; restore it from a copy, or enrol anew") from None


def read_public(data: bytes) -> Public:
    """Read somebody's public keys from what :func:`write_public` wrote.

    Raises:
        SiteError: it is something else, or the keys are not those that it was written with.
        VersionError: another protocol wrote it.
    """
    try:
        found = strict_json.loads(data, LARGEST_KEYS)
        protocol, fingerprint = found.pop("protocol"), found.pop("fingerprint")
        if protocol != PROTOCOL:
            raise VersionError(
                f"public keys of protocol {protocol!r}, this is protocol {PROTOCOL}; install one "
                "version of FedX at the coordinator and at all sites"
            )
        public = parse(Public, found)
        if public.successor is not None or public.starts:
            raise PayloadError("it names keys that follow, which the fingerprint does not cover")
    except IdentifierError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PayloadError) as error:
        raise SiteError(
            f"these are no public keys of FedX ({type(error).__name__}); pass the file that "
            "`fedx site enroll` or `fedx site admit` wrote"
        ) from None
    if fingerprint != public.fingerprint:
        raise SignatureError(
            f"the fingerprint of {public.name} is {public.fingerprint}, but the file says "
            f"{str(fingerprint)[:60]!r}; it was changed on its way, have it sent again"
        )
    return public


def write_public(public: Public) -> bytes:
    """Write public keys as JSON for people to carry, with the fingerprint to compare."""
    said = {name: getattr(public, name) for name in ("name", "verify", "seal")}
    if public.expires:
        said["expires"] = public.expires
    told = {"protocol": PROTOCOL, **said, "fingerprint": public.fingerprint}
    return strict_json.dumps(told, indent=1).encode() + b"\n"


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
