"""Keys that follow others, from a day that both sides know.

    rotate    the owner makes new keys and a letter about them, which the keys in use sign
    follow    who knows the keys in use reads the letter, and believes both for a while

The letter needs no telephone: only the owner of the keys that are known can have signed it.
"""

import base64
import time
from dataclasses import dataclass, replace
from pathlib import Path

from fedx_core.base import strict_json
from fedx_core.base.errors import PayloadError, SignatureError, SiteError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.sites import key_files, keys
from fedx_core.sites.keys import DAY, Keys, Public

FILE = "rotation.json"
LONGEST = 4096
"""Bytes of a letter's file."""

_KIND = "succession"


@dataclass(frozen=True)
class Succession:
    """What a letter says.

    Args:
        public: the new keys.
        starts: seconds since 1970, from when they are used.
    """

    public: Public
    starts: int


def rotate(folder: Path, overlap_days: int, valid_days: int) -> tuple[Keys, bytes]:
    """Make the keys that follow those of a folder, and the letter about them.

    Args:
        folder: of the keys' owner.
        overlap_days: until the new ones are used; others read the letter before.
        valid_days: until the new ones expire, from now; 0 never.

    Returns:
        The new keys, and the text of the letter's file.

    Raises:
        SiteError: there are no keys, or keys that follow them are there already.
        KeyExpiredError: the keys have expired, and nobody would believe them.
    """
    mine = key_files.load(folder)
    starts = int(time.time()) + overlap_days * DAY
    if mine.expires and starts >= mine.expires:
        raise SiteError(
            f"the keys of {mine.name} expire on {keys.day(mine.expires)}, before others would "
            f"follow them on {keys.day(starts)}; choose a shorter --overlap-days"
        )
    if (folder / key_files.NEXT).exists():
        raise SiteError(
            f"{folder / key_files.NEXT} holds keys that follow already; the letter about them is "
            f"{folder / FILE}, and they take their place by themselves"
        )
    following = keys.make(mine.name, valid_days)
    key_files.save(following, folder, key_files.NEXT, starts)
    letter = mine.signed(_KIND, canonical(Succession(following.public, starts)))
    told = {"name": mine.name, "starts": keys.day(starts), "letter": _text(letter)}
    return following, strict_json.dumps(told, indent=1).encode() + b"\n"


def is_letter(data: bytes) -> bool:
    """Tell the file of a letter from public keys, which may come the same way."""
    return len(data) <= LONGEST and b'"letter"' in data


def name(data: bytes) -> str:
    """Read whose keys a letter is about; nothing of it is believed yet.

    Raises:
        PayloadError: it is no letter.
    """
    said = _fields(data)
    return keys.check_name(str(said.get("name")))


def follow(data: bytes, known: Public) -> Public:
    """Give known keys the ones that follow them.

    Args:
        data: the letter's file.
        known: public keys of its owner.

    Raises:
        SignatureError: these keys have not signed it, or it is about another name.
        PayloadError: it is no letter.
    """
    try:
        letter = base64.b64decode(str(_fields(data)["letter"]), validate=True)
    except (ValueError, KeyError) as error:
        raise PayloadError(
            f"a letter about new keys that is damaged ({error}); have it sent again"
        ) from None
    said = keys.unsigned(known, _KIND, letter)
    found = parse(Succession, strict_json.loads(said, LONGEST))
    if found.public.name != known.name or found.public.successor is not None:
        raise SignatureError(f"a letter about keys of {found.public.name!r}, wanted {known.name}")
    now = time.time()
    return replace(known.current(now), successor=found.public, starts=found.starts)


def _fields(data: bytes) -> dict[str, object]:
    said = strict_json.loads(data, LONGEST)
    if not isinstance(said, dict):
        raise PayloadError("no letter about new keys; pass the file that `fedx site rotate` wrote")
    return said


def _text(letter: bytes) -> str:
    return base64.b64encode(letter).decode()
