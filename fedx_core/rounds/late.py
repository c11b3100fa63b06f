"""Jobs of rounds that have closed, whose clients are still at work."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedx_core.base.errors import ObjectMissingError
from fedx_core.clients.client import Place
from fedx_core.record.records import Holding
from fedx_core.rounds import dispatching, staleness, steps
from fedx_core.rounds.carrier import Carrier, Outcome
from fedx_core.rounds.steps import Server
from fedx_core.wire.messages import ClientJob

T = TypeVar("T")


def still_at_work(
    server: Server, round_index: int, holdings: Mapping[str, Holding]
) -> tuple[ClientJob, ...]:
    """Write once more the jobs that clients were still at when the round before closed.

    They are what they were: a client that is still at work holds what it held when it was asked.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        round_index: of the round that begins.
        holdings: what each client holds.

    Returns:
        The oldest first, those of a round in the order of the clients.
    """
    if not server.config.federation.staleness:
        return ()
    found = []
    waiting = staleness.awaited(server.journal.closed(round_index - 1))
    for since in sorted({failure.since for failure in waiting.values()}):
        clients = [c for c in server.clients if c in waiting and waiting[c].since == since]
        try:
            began = steps.state_before(server, since)
        except ObjectMissingError:
            continue  # the run went back to where that state is gone
        for job in dispatching.jobs_for(server, began, clients, since, "train", holdings):
            for _ in range(waiting[job.client].attempt):
                job = dispatching.next_attempt(job)
            found.append(job)
    return tuple(found)


@contextmanager
def lasting(carrier: Carrier) -> Iterator["Lasting"]:
    """Let jobs outlast their round, and nobody be waited for when the run is over."""
    found = Lasting(carrier)
    try:
        yield found
    finally:
        found.leave()


@dataclass
class Lasting:
    """A carrier whose jobs may outlast their round; each client has one job at a time.

    What is sent again while it is under way is not sent. Whoever is asked for something new is
    waited for no more. Jobs of several rounds are sent apart, since a carrier may group what it is
    sent, and drop a group only as a whole.

    Args:
        carrier: who carries the jobs.
    """

    carrier: Carrier
    _under_way: dict[str, ClientJob] = field(default_factory=dict, init=False)

    @property
    def workers(self) -> int:
        """As many as the carrier has."""
        return self.carrier.workers

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Let the carrier run it."""
        return self.carrier.server_step(name, step, *arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Send what is not under way yet, after dropping what stands in its way."""
        keys = {job.uplink_key for job in self._under_way.values()}
        new = [job for job in jobs if job.uplink_key not in keys]
        if old := [self._under_way[job.client] for job in new if job.client in self._under_way]:
            self.drop(old)
        self._under_way |= {job.client: job for job in new}
        for _, group in itertools.groupby(new, lambda job: job.round_index):
            self.carrier.send(list(group), place)

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Hear what the carrier has heard."""
        outcomes = self.carrier.heard(timeout)
        for outcome in outcomes:
            self._under_way.pop(outcome.client, None)
        return outcomes

    def leave(self) -> None:
        """Wait for nobody any more."""
        if self._under_way:
            self.drop(list(self._under_way.values()))

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Wait for them no more."""
        for job in jobs:
            self._under_way.pop(job.client, None)
        self.carrier.drop(jobs)
