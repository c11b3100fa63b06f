"""Who somebody is: a name, a pair of keys to sign with, and one to open sealed letters with.

    Keys     both secret halves; they stay in one folder of one machine, readable by its owner
    Public   the other halves; people carry them, and compare the fingerprint by telephone

Signatures are Ed25519, sealed letters X25519 with XSalsa20-Poly1305 (libsodium's sealed boxes).
What is signed begins with its kind and the protocol, so that nothing signed as one thing passes for
another:

    FEDX/order/1 NUL  data  signature of all before it (64 bytes)

Only this file knows how it is done.
"""

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from fedx_core import strict_json, unfinished
from fedx_core.errors import IdentifierError, PayloadError, SignatureError, SiteError, VersionError
from fedx_core.frozen_json import canonical, parse
from fedx_core.messages import PROTOCOL

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Of sites, and so of their clients: nothing that leads out of a folder or a store."""

FILE = "keys.json"
SIGNATURE_SIZE = 64

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

    Raises:
        IdentifierError: an impossible name.
        SignatureError: something that is no key.
    """

    name: str
    verify: str
    seal: str

    def __post_init__(self) -> None:
        check_name(self.name)
        for key in (self.verify, self.seal):
            if not _HEX_KEY.fullmatch(key):
                raise SignatureError(f"a key of {self.name} is not 64 hexadecimal digits")

    @property
    def fingerprint(self) -> str:
        """Name both keys by eight groups of four digits that can be read out."""
        digest = hashlib.sha256(canonical(self)).hexdigest()
        return " ".join(digest[start : start + 4] for start in range(0, 32, 4))


@dataclass(frozen=True)
class Keys:
    """Both secret halves of who somebody is; neither shown nor pickled.

    Args:
        name: matches :data:`NAME`.
        signing: seed of the Ed25519 key, 32 bytes.
        sealing: X25519 key, 32 bytes.
    """

    name: str
    signing: bytes = field(repr=False)
    sealing: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the keys of {self.name} stay in their process; load them where they are")

    @property
    def public(self) -> Public:
        """What others may know."""
        return Public(
            self.name,
            bytes(SigningKey(self.signing).verify_key).hex(),
            bytes(PrivateKey(self.sealing).public_key).hex(),
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
        try:
            return SealedBox(PrivateKey(self.sealing)).decrypt(data)
        except (CryptoError, ValueError, TypeError):
            raise SignatureError(
                f"a letter of {len(data)} bytes can't be opened with the keys of {self.name}: it "
                "was sealed to others or changed on its way; check that the coordinator has "
                "admitted the keys that this site has now"
            ) from None


def make(name: str) -> Keys:
    """Draw keys from the machine's source of randomness.

    Raises:
        IdentifierError: an impossible name.
    """
    return Keys(check_name(name), bytes(SigningKey.generate()), bytes(PrivateKey.generate()))


def verify(public: Public, kind: str, data: bytes, signature: bytes) -> None:
    """Check a signature of :meth:`Keys.sign`.

    Raises:
        SignatureError: another key, kind or protocol signed it, or it signs other bytes.
    """
    try:
        VerifyKey(bytes.fromhex(public.verify)).verify(_head(kind) + data, signature)
    except (CryptoError, ValueError, TypeError):
        raise SignatureError(
            f"this {kind} is not signed by {public.name} (fingerprint {public.fingerprint}): it "
            "was changed, or comes from somebody else; nothing was done with it"
        ) from None


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
    """Seal bytes so that only the owner of these keys can open them."""
    return SealedBox(PublicKey(bytes.fromhex(public.seal))).encrypt(data)


def save(keys: Keys, folder: Path) -> Path:
    """Write keys into a folder, readable by its owner alone; those that are there stay.

    Raises:
        SiteError: the folder holds keys already, or can't be written.
    """
    path = folder / FILE
    secrets = {"name": keys.name, "signing": keys.signing.hex(), "sealing": keys.sealing.hex()}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with unfinished.beside(path, mode=0o600) as under_way:
            under_way.write(canonical(secrets), durable=True)
            os.link(under_way.path, path)  # all of it or nothing, and never over others
    except FileExistsError:
        raise SiteError(
            f"{path} holds keys already; they are the only ones of their name, so move them away "
            "first if you mean to replace them"
        ) from None
    except OSError as error:
        raise SiteError(f"can't write {path}: {error.strerror}; choose another folder") from None
    return path


def load(folder: Path) -> Keys:
    """Read keys that :func:`save` wrote.

    Raises:
        SiteError: there are none, others than their owner may read them, or they are damaged.
    """
    path = folder / FILE
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
        keys = Keys(found["name"], *(bytes.fromhex(found[n]) for n in ("signing", "sealing")))
        _ = keys.public
    except (ValueError, KeyError, TypeError, CryptoError, SiteError):
        raise SiteError(f"{path} is damaged; restore it from a copy, or enrol anew") from None
    return keys


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
    told = {"protocol": PROTOCOL, **dataclasses.asdict(public), "fingerprint": public.fingerprint}
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
