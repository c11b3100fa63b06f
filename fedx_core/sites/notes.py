"""A site's short words beside its reports, signed and of one length each.

    taken    it has the order, and is at work or will be
    waits    it has the order, and its people have not agreed to the plan yet
    ready    a payload whose length it alone knows is there to be stored
    refused  it will not answer this attempt; lies where the report would

A refusal gives the error's code alone. What the error says may name folders and data of the site's,
so it stays in the site's own book (:mod:`fedx_core.rounds.audit`).
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Literal

from fedx_core.base import strict_json
from fedx_core.base.errors import PayloadError, StaleError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.sites.keys import Keys, Public, unsigned
from fedx_core.sites.manifest import MANIFEST_SIZE
from fedx_core.wire.messages import ClientJob

NOTE_SIZE = 1024
"""Bytes of a note; one that lies in a report's place has a manifest's."""

Word = Literal["taken", "waits", "ready", "refused"]

_KIND = "note"
_CODE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a site says of one job.

    Args:
        word: see the module's docstring.
        job: that it speaks of, see :func:`digest`.
        code: of the error that made it refuse; else empty.
        size: bytes of the payload that is ready; else 0.
    """

    word: Word
    job: str
    code: str = ""
    size: int = 0


def digest(job: ClientJob) -> str:
    """Name a job by all that changes what comes of it, 64 hexadecimal digits.

    How long it may take is left out: a coordinator that was killed asks the same with less time.
    """
    timeless = replace(job, deadline=0.0, grace=0.0)
    return hashlib.sha256(canonical(timeless)).hexdigest()


def write(word: Word, job: ClientJob, keys: Keys, *, code: str = "", size: int = 0) -> bytes:
    """Sign a note: :data:`NOTE_SIZE` bytes, or a manifest's if it takes the report's place."""
    said = canonical(Note(word=word, job=digest(job), code=code, size=size))
    length = MANIFEST_SIZE if word == "refused" else NOTE_SIZE
    return keys.signed(_KIND, said.ljust(length - len(keys.signed(_KIND, b""))))


def is_note(data: bytes) -> bool:
    """Tell a refusal from a manifest, which may lie in the same place; neither is believed yet."""
    return data.startswith(f"FEDX/{_KIND}/".encode())


def read(data: bytes, job: ClientJob, site: Public) -> Note:
    """Believe a note only if this site wrote it, of this very job.

    Raises:
        SignatureError: somebody else signed it, or it was changed.
        VersionError: the site speaks another protocol.
        StaleError: it speaks of another job.
        PayloadError: it is malformed.
    """
    if len(data) not in (NOTE_SIZE, MANIFEST_SIZE):
        raise PayloadError(f"a note of {len(data)} bytes from {site.name}, wanted {NOTE_SIZE}")
    said = unsigned(site, _KIND, data)
    try:
        note = parse(Note, strict_json.loads(said, MANIFEST_SIZE))
    except PayloadError as error:
        raise PayloadError(f"a malformed note of {site.name}: {error}") from error
    if note.job != digest(job):
        raise StaleError(f"{site.name} speaks of another job than that of round {job.round_index}")
    if note.size < 0 or (note.code and not _CODE.fullmatch(note.code)):
        raise PayloadError(f"a note of {site.name} with an odd code or length")
    return note
