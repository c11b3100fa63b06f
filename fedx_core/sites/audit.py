"""The book of what was refused, and why: one line of JSON each, only ever added to.

Every line says when (UTC), what (``refused``, or another event), and with which error's code. A
site keeps it in its folder, the coordinator beside its sites.
"""

import json
import logging
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedx_core.errors import FedXError

if TYPE_CHECKING:  # a site's worker writes in the book, and needs no torch for it
    from fedx_core.messages import ClientFailure, ClientJob

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
    line = json.dumps({"time": now, "event": event, **cut})
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One write to a file opened for adding: lines of several processes stay whole.
        descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("can't write down in %s: %s (%s)", folder / FILE, line, error)


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


def _shown(text: str) -> str:
    """Leave out passwords and signatures of addresses, and the end of what is long."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1?...", text))[:LONGEST]
