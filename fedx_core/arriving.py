"""A cohort at work: its clients tried and tried again, its updates given out in cohort order.

An update is decoded once, when it comes, and combined as soon as its turn has come; so memory does
not grow with the cohort, and the sums are those of :class:`fedx_core.rounds.StoredUpdates`.
"""

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from fedx_core import outliers, quorum, rounds
from fedx_core.client import Place
from fedx_core.errors import FedXError, QuorumError
from fedx_core.journal import Closed
from fedx_core.messages import ClientFailure, ClientJob, ClientReport, ServerState, Update
from fedx_core.outliers import Measured
from fedx_core.rounds import Server
from fedx_core.runtime import Runtime
from fedx_core.sites import audit


@dataclass
class Cohort:
    """Some clients' jobs, and what has come of them so far.

    Args:
        server: see :class:`fedx_core.rounds.Server`.
        runtime: who carries the jobs.
        place: where clients find things.
        jobs: one for each client, in cohort order.
        before: state that clients are sent.
    """

    server: Server
    runtime: Runtime
    place: Place
    jobs: Sequence[ClientJob]
    before: ServerState
    reports: dict[str, ClientReport] = field(default_factory=dict, init=False)
    """By client: those that may be believed."""
    failures: dict[str, ClientFailure] = field(default_factory=dict, init=False)
    """By client that does not count so far: its last."""
    refused: dict[str, int] = field(default_factory=dict, init=False)
    """By client: bytes of updates that were stored and refused, over all attempts."""
    measured: dict[str, Measured] = field(default_factory=dict, init=False)
    """By client that counts so far: how far its update goes."""

    def run(self) -> Iterator[Update | None]:
        """Try every client, the lost ones again, and yield what comes, in the order it comes.

        Yields:
            One for each outcome: an update that counts, or None where there is none.
        """
        outstanding = {job.client: job for job in self.jobs}
        began = time.monotonic()
        while outstanding:
            again: dict[str, ClientJob] = {}
            going = [self._timed(job, began) for job in outstanding.values()]
            for outcome in self.runtime.run_cohort(going, self.place):
                job = outstanding[outcome.client]
                update = None
                if isinstance(outcome, ClientReport):
                    outcome, update = rounds.accept(self.server, job, outcome, self.before)
                if isinstance(outcome, ClientReport):
                    self.reports[job.client] = outcome
                    self.failures.pop(job.client, None)
                    if update is not None:
                        bench = self.server.bench
                        self.measured[job.client] = outliers.measure(
                            bench.method, self.before, update, bench.info
                        )
                else:
                    self._lose(job, outcome)
                    if self._may_try_again(outcome):
                        again[job.client] = rounds.next_attempt(job)
                yield update
                del update  # whoever took it decides for how long it is held
            outstanding = {
                job.client: again[job.client] for job in self.jobs if job.client in again
            }

    def refuse(self, client: str, error: FedXError) -> None:
        """Let a client that counted so far count no more."""
        report = self.reports.pop(client)
        job = next(job for job in self.jobs if job.client == client)
        for _ in range(report.attempt):
            job = rounds.next_attempt(job)
        del self.measured[client]
        self._lose(job, rounds.refusal(job, report, error))

    def _lose(self, job: ClientJob, failure: ClientFailure) -> None:
        self.failures[job.client] = failure
        audit.uncounted(self.server.audit, job, failure)
        if failure.sent:
            self.refused[job.client] = self.refused.get(job.client, 0) + failure.sent

    def is_done(self, client: str) -> bool:
        """Tell whether a client counts, or is lost for good."""
        failure = self.failures.get(client)
        return client in self.reports or (failure is not None and not self._may_try_again(failure))

    def _may_try_again(self, failure: ClientFailure) -> bool:
        return not failure.late and failure.attempt + 1 < self.server.config.federation.attempts

    def _timed(self, job: ClientJob, began: float) -> ClientJob:
        """Say how long a try may take: what the tries before it have left of the round's time."""
        spent = time.monotonic() - began if job.attempt else 0.0
        return dataclasses.replace(
            job,
            deadline=max(job.deadline - spent, 0.001) if job.deadline else 0.0,
            needed=max(self._needed - len(self.reports), 0),
        )

    @property
    def _needed(self) -> int:
        refused = sum(failure.refused for failure in self.failures.values())
        return quorum.needed(self.server.config.federation.min_reports, len(self.jobs), refused)

    def closed(self) -> Closed:
        """Fix who counts, once all have been tried.

        Raises:
            QuorumError: fewer clients count than the round needs.
        """
        if len(self.reports) < self._needed or not self.reports:
            lost = "; ".join(f"{f.client}: {f.reason}" for f in self.failures.values())
            raise QuorumError(
                f"round {self.jobs[0].round_index}: {len(self.reports)} of {len(self.jobs)} "
                f"clients reported, {self._needed} needed (federation.min_reports); everything is "
                f"kept, so mend the cause and `fedx resume {self.server.run}`. Lost: {lost}",
                {client: failure.reason for client, failure in self.failures.items()},
            )
        return Closed(
            round_index=self.jobs[0].round_index,
            reports=tuple(self.reports[j.client] for j in self.jobs if j.client in self.reports),
            failures=tuple(self.failures[j.client] for j in self.jobs if j.client in self.failures),
            refused=self.refused,
        )


class Arriving:
    """A round's updates in cohort order, given out while the cohort still runs.

    Who iterates first runs the cohort. Updates that come before their turn wait, at most as many as
    there are workers; any more are decoded again when it is their turn, and so are all when they
    are iterated again.

    Args:
        cohort: to run.
    """

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._stream = self._in_turn()
        self._closed: Closed | None = None
        self._begun = False

    def __len__(self) -> int:
        """Count them, for which all must have come."""
        return len(self.closed().reports)

    def __iter__(self) -> Iterator[Update]:
        """Give them out: as they come the first time, later from the store."""
        given = 0
        if not self._begun:
            self._begun = True
            for update in self._stream:
                given += 1
                yield update
                del update  # the next client may train for long
        yield from self._stored(self.closed().reports[given:])

    def closed(self) -> Closed:
        """Wait for all that is still to come, and say who counts.

        Raises:
            QuorumError: fewer clients count than the round needs.
        """
        self._begun = True
        for _ in self._stream:
            pass
        if self._closed is None:
            self._closed = self._cohort.closed()
        return self._closed

    def close(self) -> None:
        """Ask for no more clients."""
        self._stream.close()

    def _in_turn(self) -> Generator[Update, None, None]:
        cohort = self._cohort
        waiting: dict[str, Update] = {}
        turn = 0
        for update in cohort.run():
            if update is not None:
                waiting[update.client] = update
            del update
            while turn < len(cohort.jobs) and cohort.is_done(cohort.jobs[turn].client):
                client = cohort.jobs[turn].client
                turn += 1
                if client in waiting:
                    yield waiting.pop(client)
                elif client in cohort.reports:
                    yield from self._stored((cohort.reports[client],))
            if len(waiting) > cohort.server.workers:
                waiting.popitem()

    def _stored(self, reports: tuple[ClientReport, ...]) -> Iterator[Update]:
        return iter(
            rounds.StoredUpdates(
                server=self._cohort.server, reports=reports, before=self._cohort.before
            )
        )
