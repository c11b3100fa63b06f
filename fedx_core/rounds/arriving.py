"""A cohort at work: its clients tried and tried again, its updates given out in cohort order.

An update is decoded once, when it comes, and combined as soon as its turn has come; so memory does
not grow with the cohort, and the sums are those of :class:`fedx_core.rounds.steps.StoredUpdates`.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

from fedx_core.base.errors import FedXError, QuorumError
from fedx_core.clients.client import Place
from fedx_core.record.records import Closed, Late
from fedx_core.rounds import audit, dispatching, outliers, quorum, staleness, steps
from fedx_core.rounds.asking import Asking
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.outliers import Measured
from fedx_core.rounds.steps import Server
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport, ServerState, Update


@dataclass
class Cohort:
    """Some clients' jobs, and what has come of them so far.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        carrier: who carries the jobs.
        place: where clients find things.
        jobs: one for each client, in cohort order.
        before: state that clients are sent.
        late: jobs of earlier rounds that clients are still at.
    """

    server: Server
    carrier: Carrier
    place: Place
    jobs: Sequence[ClientJob]
    before: ServerState
    late: Sequence[ClientJob] = ()
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
        asking = Asking(
            self.carrier,
            self.place,
            (*self.late, *self.jobs),
            self._lacking,
            self._enough,
            self._stays,
        )
        with closing(asking.outcomes()) as outcomes:
            for job, outcome in outcomes:
                update = None
                if isinstance(outcome, ClientReport):
                    outcome, update = steps.accept(self.server, job, outcome, self.before)
                if isinstance(outcome, ClientReport):
                    self.reports[job.client] = outcome
                    self.failures.pop(job.client, None)
                    if update is not None and steps.asked(job.purpose).updates:
                        desk = self.server.desk
                        self.measured[job.client] = outliers.measure(
                            desk.method, self.before, update, desk
                        )
                else:
                    self._lose(job, outcome)
                    if self._may_try_again(outcome):
                        asking.again(dispatching.next_attempt(job))
                yield update
                del update  # whoever took it decides for how long it is held

    def refuse(self, client: str, error: FedXError) -> None:
        """Let a client that counted so far count no more."""
        report = self.reports.pop(client)
        job = next(job for job in self.in_turn if job.client == client)
        for _ in range(report.attempt):
            job = dispatching.next_attempt(job)
        self.measured.pop(client, None)
        self._lose(job, steps.refusal(job, report, error))

    def _lose(self, job: ClientJob, failure: ClientFailure) -> None:
        self.failures[job.client] = failure
        audit.uncounted(self.server.audit, job, failure)
        if failure.sent:
            self.refused[job.client] = self.refused.get(job.client, 0) + failure.sent

    @property
    def in_turn(self) -> tuple[ClientJob, ...]:
        """All jobs in the order in which updates are added up: the cohort's, then the late."""
        return (*self.jobs, *self.late)

    def of_earlier(self, reports: Sequence[ClientReport]) -> dict[str, Late]:
        """Say by client which of some reports are of earlier rounds."""
        since = {job.client: job.round_index for job in self.late}
        return staleness.late(self.jobs[0].round_index, reports, since)

    def is_done(self, client: str) -> bool:
        """Tell whether a client counts, or is lost for good."""
        failure = self.failures.get(client)
        return client in self.reports or (failure is not None and not self._may_try_again(failure))

    def _may_try_again(self, failure: ClientFailure) -> bool:
        if failure.late or any(job.client == failure.client for job in self.late):
            return False  # whoever is lost after its round has closed is asked anew, in the next
        return failure.attempt + 1 < self.server.config.federation.attempts

    def _stays(self, job: ClientJob) -> bool:
        if not self.jobs or not steps.asked(job.purpose).updates:
            return False
        next_round = self.jobs[0].round_index + 1
        return next_round - job.round_index <= self.server.config.federation.staleness

    def _lacking(self) -> int:
        return self._needed - len(self.reports)

    def _enough(self) -> bool:
        return 0 < self._closes_at <= len(self.reports)

    @cached_property
    def _closes_at(self) -> int:
        """Reports at which it closes; 0 where it waits for all."""
        is_training = bool(self.jobs) and steps.asked(self.jobs[0].purpose).updates
        return self.server.config.federation.close_at if is_training else 0

    @property
    def _needed(self) -> int:
        refused = sum(failure.refused for failure in self.failures.values())
        asked = self._closes_at or len(self.jobs)
        return quorum.needed(self.server.config.federation.min_reports, asked, refused)

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
        in_turn = [job.client for job in self.in_turn]
        reports = tuple(self.reports[client] for client in in_turn if client in self.reports)
        return Closed(
            round_index=self.jobs[0].round_index,
            reports=reports,
            failures=tuple(self.failures[client] for client in in_turn if client in self.failures),
            refused=self.refused,
            late=self.of_earlier(reports),
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
            while turn < len(cohort.in_turn) and cohort.is_done(cohort.in_turn[turn].client):
                client = cohort.in_turn[turn].client
                turn += 1
                if client in waiting:
                    yield waiting.pop(client)
                elif client in cohort.reports:
                    yield from self._stored((cohort.reports[client],))
            if len(waiting) > cohort.server.workers:
                waiting.popitem()

    def _stored(self, reports: tuple[ClientReport, ...]) -> Iterator[Update]:
        cohort = self._cohort
        return iter(
            steps.StoredUpdates(
                server=cohort.server,
                reports=reports,
                before=cohort.before,
                late=cohort.of_earlier(reports),
            )
        )
