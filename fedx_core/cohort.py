"""What a round asks of its clients: updates to train on from, or scores on their test parts."""

from collections.abc import Mapping, Sequence
from contextlib import closing

from fedx_core import rounds, soundness
from fedx_core.arriving import Arriving, Cohort
from fedx_core.client import Place
from fedx_core.journal import Closed, Holding
from fedx_core.messages import POOLED, ClientFailure, ClientJob, ClientReport, ServerState
from fedx_core.rounds import Server
from fedx_core.runtime import Runtime


def gather(
    server: Server, runtime: Runtime, place: Place, jobs: Sequence[ClientJob], before: ServerState,
    past: Sequence[Mapping[str, float]] = (),
) -> tuple[Closed, ServerState]:  # fmt: skip
    """Run the cohort, try the lost again, and combine the updates while they come.

    What they lead to is looked at before anybody counts; see :mod:`fedx_core.soundness`.

    Args:
        server: see :class:`fedx_core.rounds.Server`.
        runtime: who carries the jobs.
        place: where clients find things.
        jobs: one for each client of the cohort.
        before: state that clients are sent.
        past: norms of the rounds before; see :mod:`fedx_core.outliers`.

    Returns:
        Who counts, and the state that their updates lead to.

    Raises:
        QuorumError: fewer clients count than the round needs.
    """
    cohort = Cohort(server, runtime, place, jobs, before)
    updates = Arriving(cohort)
    with closing(updates):
        combined = server.bench.method.aggregate(before, updates, server.bench.info)
        updates.closed()
    return soundness.close(cohort, combined, past)


def score_at_clients(
    server: Server,
    runtime: Runtime,
    place: Place,
    state: ServerState,
    holdings: Mapping[str, Holding],
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """Let every client score the model (or its own) on its test part; a lost one is left out.

    Returns:
        By client: the scores, and the bytes fetched for them; and the keys of what is of no use
        after the commit. Until then another server of the run may be after the same scores.
    """
    clients = [client for client in server.clients if client != POOLED]
    jobs = rounds.jobs_for(server, state, clients, state.round_index, "evaluate", holdings)
    cohort = Cohort(server, runtime, place, jobs, state)
    for _ in cohort.run():
        pass
    reports = cohort.reports
    scores = {
        client: {
            "examples": float(reports[client].examples),
            **{name: number(reports[client], name) for name in reports[client].metrics},
        }
        for client in clients
        if client in reports
    }
    fetched = {j.client: j.base.size for j in jobs if j.base and j.client in reports}
    return scores, fetched, _keys(jobs, {**cohort.failures, **reports})


def _keys(
    jobs: Sequence[ClientJob], outcomes: Mapping[str, ClientReport | ClientFailure]
) -> list[str]:
    """Name what was stored only to be scored."""
    keys = [base.key for base in rounds.bases(jobs)]
    for first in jobs:
        job = first
        for _ in range(outcomes[first.client].attempt + 1):
            keys.append(job.report_key)
            job = rounds.next_attempt(job)
    return keys


def number(report: ClientReport, name: str) -> float:
    """Return one of the numbers that a client reports; 0 where it does not."""
    value = report.metrics.get(name, 0.0)
    assert not isinstance(value, list)
    return float(value)
