"""The book of what was refused, and why: one line of JSON each, only ever added to.

Every line says when (UTC), what (``refused``, or another event), and with which error's code. A
site keeps it in its folder, the coordinator beside its sites.
"""

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from fedx_core.errors import FedXError

FILE = "audit.jsonl"
LONGEST = 500
"""Characters that are kept of one text; what others send is quoted, and may be long."""

log = logging.getLogger(__name__)


def note(folder: Path, event: str, **facts: str | int | float) -> None:
    """Add a line.

    Args:
        folder: takes ``audit.jsonl``, which nobody else may read.
        event: what happened, in a word.
        facts: names and numbers; texts are cut at :data:`LONGEST`.
    """
    cut = {k: v[:LONGEST] if isinstance(v, str) else v for k, v in facts.items()}
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


def refused(folder: Path, error: FedXError, **facts: str | int | float) -> None:
    """Add the line of one refusal.

    Args:
        folder: see :func:`note`.
        error: why.
        facts: what was refused, such as ``run``, ``round_index``, ``client`` or ``flow_run``.
    """
    note(folder, "refused", code=error.code, said=str(error), **facts)
