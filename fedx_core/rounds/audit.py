"""The book of what was refused, and why: one line of JSON each, only ever added to.

Every line says when (UTC), what (``refused``, or another event), and with which error's code. A
site keeps it in its folder, the coordinator beside its sites.

The lines are a chain: each has its number and a SHA-256 of all lines before it, so that nobody can
change, drop or insert one without changing every line after it. What a chain can't show is that its
last lines are gone; for that, write down its last hash now and then, and have it looked for
(``fedx audit verify --expect``).
"""

import fcntl
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fedx_core.base import strict_json
from fedx_core.base.errors import FedXError

if TYPE_CHECKING:  # a site's worker writes in the book, and needs no torch for it
    from fedx_core.wire.messages import ClientFailure, ClientJob

FILE = "audit.jsonl"
LONGEST = 500
"""Characters that are kept of one text; what others send is quoted, and may be long."""

log = logging.getLogger(__name__)

_REASON = re.compile(r"(E_[A-Z_]+): (.*)", re.DOTALL)
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*")
_USER = re.compile(r"(https?://)[^\s/@'\"]*@")


def note(folder: Path, event: str, **facts: str | int | float) -> None:
    """Add a line.

    Args:
        folder: takes ``audit.jsonl``, which nobody else may read.
        event: what happened, in a word.
        facts: names and numbers; texts are cut at :data:`LONGEST`, and lose what signs a URL.
    """
    cut = {k: _shown(v) if isinstance(v, str) else v for k, v in facts.items()}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    said = {"time": now, "event": event, **cut}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Opened for adding, so that lines of several processes stay whole even without locks.
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with suppress(OSError):  # some network mounts have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            _add(descriptor, said)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning(
            "can't write down in %s: %s (%s)", folder / FILE, strict_json.dumps(said), error
        )


@dataclass(frozen=True)
class Verified:
    """What a book's chain shows.

    Args:
        lines: in the book.
        chained: of them; those before were written by a FedX that had no chain.
        head: SHA-256 that names all that the book says; the next line would hold it.
        faults: what does not hold, in order, with line numbers; empty if all does.
    """

    lines: int
    chained: int
    head: str
    faults: tuple[str, ...]


def verify(folder: Path, expect: str = "") -> Verified:
    """Check a book's chain.

    Args:
        folder: that holds ``audit.jsonl``; without the file there are no lines.
        expect: a hash that somebody has written down; it must still be in the chain.

    Raises:
        OSError: the book can't be read.
    """
    faults: list[str] = []
    head, number, chained, seen = _EMPTY, 0, 0, {_EMPTY}
    for number, line in enumerate(_lines(folder), start=1):
        said = _read(line)
        if said is None:
            faults.append(f"line {number} is damaged: {line[:80]!r}")
        elif "previous" in said or chained:
            if said.get("previous") != head:
                faults.append(
                    f"line {number} does not follow: a line before it was changed or lost"
                )
            elif said.get("line") != number:
                faults.append(f"line {number} says it is line {said.get('line')}")
            chained += 1
        head = _linked(head, line)
        seen.add(head)
    if expect and expect not in seen:
        faults.append(f"{expect} is not in the chain: lines at the end are lost, or were rewritten")
    return Verified(number, chained, head, tuple(faults))


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Go through the lines of a book that can be read, oldest first.

    Raises:
        OSError: the book can't be read.
    """
    for line in _lines(folder):
        if (said := _read(line)) is not None:
            yield said


def uncounted(folder: Path | None, job: "ClientJob", failure: "ClientFailure") -> None:
    """Add the line of an attempt that does not count; without a folder there is none.

    Args:
        folder: see :func:`note`.
        job: that was tried.
        failure: why it does not count; one without a code of ours is ``E_LOST``.
    """
    if folder is not None:
        known = _REASON.fullmatch(failure.reason)
        code, said = known.groups() if known else ("E_LOST", failure.reason)
        note(
            folder,
            "uncounted",
            code=code,
            run=job.run,
            round_index=job.round_index,
            client=job.client,
            attempt=job.attempt,
            purpose=job.purpose,
            object=job.uplink_key,
            said=said,
        )


def refused(folder: Path, error: FedXError, **facts: str | int | float) -> None:
    """Add the line of one refusal.

    Args:
        folder: see :func:`note`.
        error: why.
        facts: what was refused, such as ``run``, ``round_index``, ``client`` or ``flow_run``.
    """
    note(folder, "refused", code=error.code, said=str(error), **facts)


_TAIL = 64 * 1024
"""Bytes in which the last line is looked for; a line has some forty facts at most."""

_EMPTY = hashlib.sha256(b"").hexdigest()


def _linked(head: str, line: bytes) -> str:
    """Name all that stands in a book up to a line."""
    return hashlib.sha256(head.encode() + line).hexdigest()


def _lines(folder: Path) -> Iterator[bytes]:
    try:
        with (folder / FILE).open("rb") as file:
            yield from (line.rstrip(b"\n") for line in file)
    except FileNotFoundError:
        return


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _add(descriptor: int, said: dict[str, Any]) -> None:
    """Add a line that names all before it."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        head, number, whole = _end(file)
    line = strict_json.dumps({**said, "line": number + 1, "previous": head})
    # What a full disk has cut short stays a line of its own.
    os.write(descriptor, (b"" if whole else b"\n") + line.encode() + b"\n")


def _end(file: BinaryIO) -> tuple[str, int, bool]:
    """Give the hash of all lines, their number, and whether the last one is whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    last = (file.read().splitlines(keepends=True) or [b"\n"])[-1]
    whole = last.endswith(b"\n")
    known = _read(last) or {}
    head, number = known.get("previous"), known.get("line")
    if isinstance(head, str) and isinstance(number, int):
        return _linked(head, last.rstrip(b"\n")), number, whole
    # The book of a FedX that had no chain, or a damaged line.
    file.seek(0)
    lines = [line.rstrip(b"\n") for line in file]
    return functools.reduce(_linked, lines, _EMPTY), len(lines), whole


def _shown(text: str) -> str:
    """Leave out passwords and signatures of addresses, and the end of what is long."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1?...", text))[:LONGEST]
