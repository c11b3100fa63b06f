"""A cohort's work: tried, tried again where it failed, and counted only if it may be believed."""

from collections.abc import Mapping, Sequence

from fedx_core import rounds
from fedx_core.client import Place
from fedx_core.errors import QuorumError
from fedx_core.journal import Closed, Holding
from fedx_core.masks import Mask
from fedx_core.messages import POOLED, ClientFailure, ClientJob, ClientReport, ServerState
from fedx_core.rounds import Server
from fedx_core.runtime import Runtime


def gather(
    server: Server, runtime: Runtime, place: Place, jobs: Sequence[ClientJob], mask: Mask | None
) -> Closed:
    """Run the cohort, try the lost again, and fix who counts.

    Raises:
        QuorumError: fewer clients count than the round needs.
    """
    reports, failures, refused = _attempts(server, runtime, place, jobs, mask)
    needed = server.config.federation.min_reports or len(jobs)
    if len(reports) < min(needed, len(jobs)) or not reports:
        lost = "; ".join(f"{f.client}: {f.reason}" for f in failures.values())
        raise QuorumError(
            f"round {jobs[0].round_index}: {len(reports)} of {len(jobs)} clients reported, "
            f"{needed} needed (federation.min_reports); everything is kept, so mend the cause and "
            f"`fedx resume {server.run}`. Lost: {lost}",
            {client: failure.reason for client, failure in failures.items()},
        )
    return Closed(
        round_index=jobs[0].round_index,
        reports=tuple(reports[job.client] for job in jobs if job.client in reports),
        failures=tuple(failures[job.client] for job in jobs if job.client in failures),
        refused=refused,
    )


def _attempts(
    server: Server, runtime: Runtime, place: Place, jobs: Sequence[ClientJob], mask: Mask | None
) -> tuple[dict[str, ClientReport], dict[str, ClientFailure], dict[str, int]]:
    """Try every client, the lost ones again: what counts, what does not, and refused bytes."""
    reports: dict[str, ClientReport] = {}
    failures: dict[str, ClientFailure] = {}
    refused: dict[str, int] = {}
    outstanding = {job.client: job for job in jobs}
    while outstanding:
        again: dict[str, ClientJob] = {}
        for outcome in runtime.run_cohort(list(outstanding.values()), place):
            job = outstanding[outcome.client]
            if isinstance(outcome, ClientReport):
                outcome = rounds.accept(server, job, outcome, mask)
            if isinstance(outcome, ClientReport):
                reports[job.client] = outcome
                failures.pop(job.client, None)
                continue
            failures[job.client] = outcome
            if outcome.sent:
                refused[job.client] = refused.get(job.client, 0) + outcome.sent
            if job.attempt + 1 < server.config.federation.attempts:
                again[job.client] = rounds.next_attempt(job)
        outstanding = {job.client: again[job.client] for job in jobs if job.client in again}
    return reports, failures, refused


def score_at_clients(
    server: Server,
    runtime: Runtime,
    place: Place,
    state: ServerState,
    holdings: Mapping[str, Holding],
) -> dict[str, dict[str, float]]:
    """Let every client score the model (or its own) on its test part; a lost one is left out."""
    clients = [client for client in server.clients if client != POOLED]
    jobs = rounds.jobs_for(server, state, clients, state.round_index, "evaluate", holdings)
    reports, failures, _ = _attempts(server, runtime, place, jobs, state.mask)
    _clear(server, jobs, reports, failures)
    return {
        client: {
            "examples": float(reports[client].examples),
            **{name: number(reports[client], name) for name in reports[client].metrics},
        }
        for client in clients
        if client in reports
    }


def _clear(
    server: Server,
    jobs: Sequence[ClientJob],
    reports: Mapping[str, ClientReport],
    failures: Mapping[str, ClientFailure],
) -> None:
    """Forget what was stored only to be scored."""
    outcomes: dict[str, ClientReport | ClientFailure] = {**failures, **reports}
    for first in jobs:
        job = first
        for _ in range(outcomes[first.client].attempt + 1):
            server.store.delete(job.report_key)
            job = rounds.next_attempt(job)
    if jobs and jobs[0].base is not None:
        server.store.delete(jobs[0].base.key)


def number(report: ClientReport, name: str) -> float:
    """Return one of the numbers that a client reports; 0 where it does not."""
    value = report.metrics.get(name, 0.0)
    assert not isinstance(value, list)
    return float(value)
