"""What a client says of its work, checked before anything is fetched or counted."""

import math
import re

from fedx_core import state
from fedx_core.errors import (
    ExamplesError,
    IdentifierError,
    NonFiniteError,
    NormError,
    PayloadError,
    StaleError,
)
from fedx_core.messages import ClientJob, ClientReport, Ref, Update

MOST_METRICS = 64
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = ("examples", "seconds")


def check(report: ClientReport, job: ClientJob, most_examples: int | None) -> None:
    """Check a report against its job; what it refers to is not looked at.

    Args:
        report: as it came.
        job: that it should answer.
        most_examples: training images that the client has; None where nobody knows.

    Raises:
        StaleError: it answers another job.
        IdentifierError: it refers to what is not this job's, or names its numbers oddly.
        ExamplesError: more examples than the client has, or fewer than its work needs.
        NonFiniteError: NaN or infinity among its numbers.
        PayloadError: its numbers are too many, or lists.
    """
    found = (report.client, report.attempt, report.purpose, report.variant)
    if found != (job.client, job.attempt, job.purpose, job.variant):
        raise StaleError(f"the report answers another job: {str(found)[:200]}")
    memory = f"memory/{job.client}/{job.round_index:04d}.{job.attempt}"
    for ref, key in ((report.uplink, job.uplink_key), (report.memory, memory)):
        _check_key(ref, key, job.client)
    _check_examples(report, most_examples)
    _check_numbers(report)


def check_norm(update: Update, most: float) -> None:
    """Check the Euclidean norm over all floating values of an update as it was sent.

    Args:
        update: decoded and finite.
        most: that the norm may be; 0 for any.

    Raises:
        NormError: it is larger.
    """
    if most and (found := state.norm(update.payload)) > most:
        raise NormError(
            f"the update of {update.client} has norm {found:.6g}, wanted {most:g} at most "
            "(federation.max_update_norm)"
        )


def _check_key(ref: Ref | None, key: str, client: str) -> None:
    # Else a client could pass another's update off as its own, or have its memory deleted.
    if ref is not None and ref.key != key:
        raise IdentifierError(f"{client} refers to {ref.key[:80]!r}, wanted {key!r}")
    if ref is not None and ref.size < 0:
        raise PayloadError(f"{client} refers to {ref.size} bytes")


def _check_examples(report: ClientReport, most: int | None) -> None:
    least = 0 if report.purpose == "evaluate" and not report.metrics else 1
    if report.examples < least:
        raise ExamplesError(f"{report.client} reports {report.examples} examples, wanted {least}")
    if most is not None and report.purpose == "train" and report.examples > most:
        raise ExamplesError(
            f"{report.client} reports {report.examples} examples and has {most}; examples are the "
            "weight of its update"
        )


def _check_numbers(report: ClientReport) -> None:
    if len(report.metrics) > MOST_METRICS:
        raise PayloadError(
            f"{report.client} reports {len(report.metrics)} numbers, wanted {MOST_METRICS} at most"
        )
    for name, value in (*report.metrics.items(), ("seconds taken", report.seconds)):
        if isinstance(value, list):
            raise PayloadError(f"{report.client} reports a list as {name[:60]!r}, wanted a number")
        if not math.isfinite(value):
            raise NonFiniteError(f"{report.client} reports {value} as {name[:60]!r}")
    for name in report.metrics:
        if not _METRIC.fullmatch(name) or name in _RESERVED:
            raise IdentifierError(f"{report.client} reports a number under the name {name[:60]!r}")
