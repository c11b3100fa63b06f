"""Keys in files: the secret ones in their owner's folder, the public ones for people to carry.

keys.json         the keys in use
keys.next.json    those that follow, and from when
keys.before.json  those before them, which letters under way may still be sealed to
"""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fedx_core.base import strict_json, unfinished
from fedx_core.base.errors import (
    IdentifierError,
    PayloadError,
    SignatureError,
    SiteError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.sites.keys import DAY, LATE_DAYS, Keys, Public, check_time
from fedx_core.wire.messages import PROTOCOL

FILE, NEXT, BEFORE = "keys.json", "keys.next.json", "keys.before.json"

LARGEST_KEYS = 1 << 16
"""Bytes that a file of keys may have."""


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
    except (ValueError, KeyError, TypeError, SiteError):
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
