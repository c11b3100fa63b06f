"""What a round asks of its clients: updates to train on from, or scores on their test parts."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from fedx_core.clients.client import Place
from fedx_core.methods.base import Total, total
from fedx_core.record.records import Closed, Holding
from fedx_core.rounds import dispatching, soundness, steps
from fedx_core.rounds.arriving import Arriving, Cohort
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.steps import Server
from fedx_core.wire.messages import (
    POOLED,
    ClientFailure,
    ClientJob,
    ClientReport,
    ServerState,
    Update,
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What clients say of a model, or of their own.

    Args:
        answers: of those that were not lost, in the order of clients.
        sent: bytes by client of what was fetched to be scored, and of what came back.
        passing: keys of what is of no use after the commit. Until then another server of the run
            may be after the same scores.
    """

    answers: tuple[Update, ...]
    sent: Mapping[str, int]
    passing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a cohort's clients have sent, before anybody counts.

    Args:
        cohort: that has run.
        total: of their contributions; None where the method has to see each update.
    """

    cohort: Cohort
    total: Total | None


def gather(
    server: Server,
    carrier: Carrier,
    place: Place,
    jobs: Sequence[ClientJob],
    before: ServerState,
    late: Sequence[ClientJob] = (),
) -> Gathered:
    """Run the cohort, try the lost again, and add up what comes while it comes.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        carrier: who carries the jobs.
        place: where clients find things.
        jobs: one for each client of the cohort.
        before: state that clients are sent.
        late: jobs of earlier rounds that clients are still at.

    Raises:
        QuorumError: fewer clients count than the round needs.
    """
    desk = server.desk
    cohort = Cohort(server, carrier, place, jobs, before, late)
    updates = Arriving(cohort)
    summed = None
    with closing(updates):
        if not desk.method.sees_each:
            # Holds no update while the next one comes.
            summed = total(map(partial(desk.method.contribution, desk), updates))
        updates.closed()
    return Gathered(cohort=cohort, total=summed)


def aggregate(
    server: Server,
    before: ServerState,
    found: Gathered | Closed,
    past: Sequence[Mapping[str, float]],
    attempt: int,
) -> tuple[Closed, ServerState]:
    """Turn what clients have sent into the next state, and close the round.

    What it leads to is looked at before anybody counts; see :mod:`fedx_core.rounds.soundness`.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        before: state that clients were sent.
        found: what came; or who counts, where the round was closed already.
        past: norms of the rounds before; see :mod:`fedx_core.rounds.outliers`.
        attempt: at closing this round, from 0.

    Returns:
        Who counts, and the state that their updates lead to.

    Raises:
        QuorumError: fewer clients count than the round needs.
        RunError: what they lead to is not finite, whoever is left out.
    """
    if isinstance(found, Closed):
        return found, steps.aggregate(server, before, found)
    closed, combined = soundness.close(found.cohort, found.total, past)
    server.journal.close(closed, attempt)
    return closed, steps.recalibrated(server, combined)


def score_at_clients(
    server: Server,
    carrier: Carrier,
    place: Place,
    state: ServerState,
    holdings: Mapping[str, Holding],
) -> Scored:
    """Let every client score the model (or its own) on its test part; a lost one is left out."""
    clients = [client for client in server.clients if client != POOLED]
    jobs = dispatching.jobs_for(server, state, clients, state.round_index, "evaluate", holdings)
    cohort = Cohort(server, carrier, place, jobs, state)
    found = {update.client: update for update in cohort.run() if update is not None}
    reports = cohort.reports
    sent = {}
    for job in jobs:
        if job.client in reports:
            uplink = reports[job.client].uplink
            sent[job.client] = (job.base.size if job.base else 0) + (uplink.size if uplink else 0)
    return Scored(
        answers=tuple(found[client] for client in clients if client in found),
        sent=sent,
        passing=tuple(_keys(server, jobs, {**cohort.failures, **reports})),
    )


def _keys(
    server: Server,
    jobs: Sequence[ClientJob],
    outcomes: Mapping[str, ClientReport | ClientFailure],
) -> list[str]:
    """Name what was stored only to be scored."""
    keys = [base.key for base in dispatching.bases(jobs)]
    sends = any(steps.asked(job.purpose).schema(server.desk.plan).entries for job in jobs[:1])
    for first in jobs:
        job = first
        for _ in range(outcomes[first.client].attempt + 1):
            keys.append(job.report_key)
            if sends:
                keys.append(job.uplink_key)
            job = dispatching.next_attempt(job)
    return keys


def number(report: ClientReport, name: str) -> float:
    """Return one of the numbers that a client reports; 0 where it does not."""
    value = report.metrics.get(name, 0.0)
    assert not isinstance(value, list)
    return float(value)
