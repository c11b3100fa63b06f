"""What a client says and sends, checked value by value before anything counts.

Where a single value may lie is said where it is declared (:mod:`fedx_core.wire.domains`); how an
update stands beside the others of its round is judged once all are there
(:mod:`fedx_core.rounds.outliers`).
"""

import re
from collections.abc import Mapping

from fedx_core.base import state
from fedx_core.base.errors import (
    DomainError,
    ExamplesError,
    IdentifierError,
    NormError,
    PayloadError,
    StaleError,
)
from fedx_core.base.state import Payload
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import ClientJob, ClientReport, Ref, Schema, Update

MOST_METRICS = 64
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = ("examples", "seconds")


def check(
    report: ClientReport,
    job: ClientJob,
    most_examples: int | None,
    numbers: Mapping[str, Domain],
    *,
    may_be_empty: bool = False,
) -> None:
    """Check a report against its job; what it refers to is not looked at.

    Args:
        report: as it came.
        job: that it should answer.
        most_examples: images that the client has for this; None where nobody knows.
        numbers: what those that it reports may be, by name.
        may_be_empty: no images and no numbers are an answer too.

    Raises:
        StaleError: it answers another job.
        IdentifierError: it refers to what is not this job's, or names its numbers oddly.
        ExamplesError: more examples than the client has, or fewer than its work needs.
        NonFiniteError: NaN or infinity among its numbers.
        DomainError: a number lies where none can lie, or is none that this job's reports hold.
        PayloadError: its numbers are too many, or lists.
    """
    found = (report.client, report.attempt, report.purpose, report.variant)
    if found != (job.client, job.attempt, job.purpose, job.variant):
        raise StaleError(f"the report answers another job: {str(found)[:200]}")
    memory = f"memory/{job.client}/{job.round_index:04d}.{job.attempt}"
    for ref, key in ((report.uplink, job.uplink_key), (report.memory, memory)):
        _check_key(ref, key, job.client)
    _check_examples(report, most_examples, may_be_empty=may_be_empty)
    _check_numbers(report, numbers)


def check_payload(payload: Payload, schema: Schema, client: str) -> None:
    """Check every value of a decoded payload against its entry's domain.

    Raises:
        NonFiniteError: NaN or infinity.
        DomainError: a value lies where none can lie, or its entry does not say where it may.
    """
    state.require_finite(payload, client)
    for entry in schema.entries:
        if entry.domain is None:
            raise DomainError(
                f"nobody has said what {entry.name!r} may be, so {client}'s is refused; name a "
                "domain where the method's schema makes the entry"
            )
        entry.domain.check_tensor(payload[entry.name], f"{entry.name!r} of {client}")


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


def _check_examples(report: ClientReport, most: int | None, *, may_be_empty: bool) -> None:
    least = 0 if may_be_empty and not report.metrics else 1
    if report.examples < least:
        raise ExamplesError(f"{report.client} reports {report.examples} examples, wanted {least}")
    if most is not None and report.examples > most:
        raise ExamplesError(
            f"{report.client} reports {report.examples} examples and has {most}; examples are the "
            "weight of what it sends"
        )


def _check_numbers(report: ClientReport, numbers: Mapping[str, Domain]) -> None:
    if len(report.metrics) > MOST_METRICS:
        raise PayloadError(
            f"{report.client} reports {len(report.metrics)} numbers, wanted {MOST_METRICS} at most"
        )
    for name, value in report.metrics.items():
        if not _METRIC.fullmatch(name) or name in _RESERVED:
            raise IdentifierError(f"{report.client} reports a number under the name {name[:60]!r}")
        if isinstance(value, list):
            raise PayloadError(f"{report.client} reports a list as {name!r}, wanted a number")
        if name not in numbers:
            raise DomainError(
                f"{report.client} reports {name!r}, and nobody has said what that may be; methods "
                "declare the numbers of their clients in `says`"
            )
        numbers[name].check_number(value, f"{name!r} of {report.client}")
    domains.SECONDS.check_number(report.seconds, f"seconds taken of {report.client}")
