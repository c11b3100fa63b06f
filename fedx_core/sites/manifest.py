"""What a site says of its work, signed: a client's report, bound to the job that it answers.

It names everything that an old, foreign or swapped report differs in: run, round, attempt, plan,
downlink, mask, schema, and the payload by hash and length. The coordinator compares each with its
own job, so it needs neither clocks nor counters to refuse what is stale.

A manifest always has the same length, since a grant to store it names the length beforehand.
"""

import dataclasses
import math
import re
from dataclasses import dataclass

from fedx_core.base import strict_json
from fedx_core.base.errors import (
    ExamplesError,
    IdentifierError,
    PayloadError,
    StaleError,
    TooBigError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.sites.keys import Keys, unsigned
from fedx_core.sites.registry import Admitted
from fedx_core.wire.messages import ClientJob, ClientReport, Ref

MANIFEST_SIZE = 8192
"""Bytes of every manifest."""

MOST_EXAMPLES = 2**32
"""No site claims more, whatever it was admitted with."""

_KIND = "manifest"
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Answered:
    """Which job a manifest answers, by what two jobs can differ in.

    Args:
        run: name of the run.
        round_index: of the job.
        client: the site's name.
        attempt: of the job.
        purpose: of the job.
        seed: of the job.
        plan: SHA-256 of what was followed.
        base: SHA-256 of the downlink; empty without one.
        mask: SHA-256 of the mask; empty without one.
        schema: digest of the downlink's schema.
        memory: SHA-256 of what the site had kept for itself; empty without any.
        uplink_key: where the payload goes.
        variant: which of the method's payloads the site exchanges.
    """

    run: str
    round_index: int
    client: str
    attempt: int
    purpose: str
    seed: int
    plan: str
    base: str
    mask: str
    schema: str
    memory: str
    uplink_key: str
    variant: str


@dataclass(frozen=True)
class Manifest:
    """A report and the job that it answers."""

    job: Answered
    report: ClientReport


def write(report: ClientReport, job: ClientJob, keys: Keys) -> bytes:
    """Sign a report on a job: :data:`MANIFEST_SIZE` bytes.

    Raises:
        TooBigError: the report says more than fits.
    """
    said = canonical(Manifest(_answered(job), report))
    room = MANIFEST_SIZE - len(keys.signed(_KIND, b""))
    if len(said) > room:
        raise TooBigError(
            f"a report of {len(said)} bytes, {room} fit into a manifest; a method that says so "
            "much of each client needs fewer metrics"
        )
    return keys.signed(_KIND, said.ljust(room))


def read(data: bytes, job: ClientJob, admitted: Admitted) -> ClientReport:
    """Believe a manifest only if this site wrote it, on this very job.

    The payload that it names is still to be fetched and looked at.

    Args:
        data: what the site stored.
        job: what it was asked.
        admitted: whom.

    Raises:
        TooBigError: it is longer than a manifest.
        SignatureError: somebody else signed it, or it was changed.
        VersionError: the site speaks another protocol.
        StaleError: it answers another job.
        ExamplesError: it claims more examples than the site was admitted with.
        IdentifierError: it names objects that are not this job's.
        PayloadError: it is malformed.
    """
    if len(data) != MANIFEST_SIZE:
        kind = TooBigError if len(data) > MANIFEST_SIZE else PayloadError
        raise kind(
            f"a manifest of {len(data)} bytes from {job.client}, wanted {MANIFEST_SIZE}; it was "
            "truncated or padded"
        )
    said = unsigned(admitted.public, _KIND, data).rstrip(b" ")
    try:
        found = parse(Manifest, strict_json.loads(said, MANIFEST_SIZE))
        # So there is one way to say a thing, and no field was given twice.
        if canonical(found) != said:
            raise PayloadError(f"a manifest of {job.client} that is not written as FedX writes it")
    except PayloadError:
        raise
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"a malformed manifest of {job.client}: {error}") from error
    _same_job(found.job, job)
    _check(found.report, job, admitted)
    return found.report


def _answered(job: ClientJob) -> Answered:
    return Answered(
        run=job.run,
        round_index=job.round_index,
        client=job.client,
        attempt=job.attempt,
        purpose=job.purpose,
        seed=job.seed,
        plan=_hash(job.plan),
        base=_hash(job.base),
        mask=_hash(job.mask),
        schema=job.schema,
        memory=_hash(job.memory),
        uplink_key=job.uplink_key,
        variant=job.variant,
    )


def _hash(ref: Ref | None) -> str:
    return "" if ref is None else ref.sha256


def _same_job(said: Answered, job: ClientJob) -> None:
    wanted = _answered(job)
    for name in (field.name for field in dataclasses.fields(Answered)):
        if getattr(said, name) != getattr(wanted, name):
            raise StaleError(
                f"{job.client} answers another job: its {name} is "
                f"{str(getattr(said, name))[:80]!r}, round {job.round_index} of {job.run} has "
                f"{getattr(wanted, name)!r}; it does not count"
            )


def _check(report: ClientReport, job: ClientJob, admitted: Admitted) -> None:
    """Check what the report itself says; a site may lie in what it signs."""
    for name in ("client", "attempt", "purpose", "variant"):
        if getattr(report, name) != getattr(job, name):
            raise StaleError(
                f"{job.client} signs a report whose {name} is {str(getattr(report, name))[:80]!r}, "
                f"its job has {getattr(job, name)!r}; it does not count"
            )
    most = min(admitted.max_examples or MOST_EXAMPLES, MOST_EXAMPLES)
    if not 0 <= report.examples <= most:
        raise ExamplesError(
            f"{job.client} claims {report.examples} examples, it was admitted with {most} at most; "
            "if it has more by now, admit it again with `fedx site admit --max-examples`"
        )
    memory = f"memory/{job.client}/{job.round_index:04d}.{job.attempt}"
    for ref, key in ((report.uplink, job.uplink_key), (report.memory, memory)):
        if ref is not None:
            _check_ref(ref, key, job.client)
    if odd := sorted(name for name in report.metrics if not _METRIC.fullmatch(name)):
        raise IdentifierError(
            f"{job.client} reports a metric {odd[0][:80]!r}; names match {_METRIC.pattern}"
        )
    if not (math.isfinite(report.seconds) and report.seconds >= 0):
        raise PayloadError(f"{job.client} reports {report.seconds} seconds")


def _check_ref(ref: Ref, key: str, client: str) -> None:
    if ref.key != key:
        raise IdentifierError(f"{client} names {ref.key[:80]!r}, its job has {key!r}")
    if not _SHA256.fullmatch(ref.sha256) or not 0 <= ref.size < 2**48:
        raise PayloadError(f"{client} names {key!r} by a malformed hash or length")
