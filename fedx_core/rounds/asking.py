"""One question to clients: its jobs sent, waited for, sent again, and closed.

Whoever carries the jobs, patience is the same: until the deadline, which all tries share, or longer
by the grace while too few have reported. A question may also close as soon as enough have. Whoever
is still at work by then is dropped, or stays at work where what comes of it may count later.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Sequence

from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import Carrier, Outcome
from fedx_core.wire.messages import ClientFailure, ClientJob


class Patience:
    """How long a question's answers are waited for, from now on.

    Args:
        seconds: until the deadline; 0 for ever.
        grace: seconds on top while too few have reported.
    """

    def __init__(self, seconds: float, grace: float) -> None:
        self._began = time.monotonic()
        self._soft = self._began + (seconds or math.inf)
        self._hard = self._soft + grace

    def left(self, lacking: int) -> float | None:
        """Return for how many seconds to wait, 0 or more; None for ever.

        Args:
            lacking: reports that are still needed.
        """
        ends = self._hard if lacking > 0 else self._soft
        return None if ends == math.inf else max(ends - time.monotonic(), 0.0)

    def spent(self) -> float:
        """Return for how many seconds one has waited."""
        return time.monotonic() - self._began


class Asking:
    """Some clients' jobs, given to a carrier, and what comes of them.

    Args:
        carrier: who carries the jobs.
        place: where clients find things.
        jobs: one for each client; they share a deadline. Those that are under way already are
            known to the carrier.
        lacking: counts the reports that are still needed, 0 or fewer where there are enough.
        enough: tells whether the question closes with what has come.
        stays: tells whether what comes of a job after that may count in the next round.
    """

    def __init__(
        self,
        carrier: Carrier,
        place: Place,
        jobs: Sequence[ClientJob],
        lacking: Callable[[], int] = lambda: 0,
        enough: Callable[[], bool] = lambda: False,
        stays: Callable[[ClientJob], bool] = lambda job: False,
    ) -> None:
        self._carrier = carrier
        self._place = place
        self._jobs = jobs
        self._lacking = lacking
        self._enough = enough
        self._stays = stays
        self._asked: dict[str, ClientJob] = {}
        self._under_way: dict[str, ClientJob] = {}
        self._again: list[ClientJob] = []

    def outcomes(self) -> Generator[tuple[ClientJob, Outcome], None, None]:
        """Send the jobs and yield what comes of each, in the order it comes.

        Who has not answered when patience ends is late; and who has not when there are enough, is
        not waited for. Whoever stops iterating asks no more.
        """
        if not self._jobs:
            return
        patience = Patience(self._jobs[0].deadline, self._jobs[0].grace)
        self._again = list(self._jobs)
        stay: dict[str, ClientJob] = {}
        try:
            while self._again or self._under_way:
                self._send(patience)
                for outcome in self._carrier.heard(patience.left(self._lacking())):
                    if self._enough():
                        break  # no more count than those, however many come at once
                    if self._under_way.pop(outcome.client, None) is not None:
                        yield self._asked[outcome.client], outcome
                if self._enough() or patience.left(self._lacking()) == 0.0:
                    break
            stay = {c: job for c, job in self._under_way.items() if self._stays(job)}
        finally:
            if gone := [job for c, job in self._under_way.items() if c not in stay]:
                self._carrier.drop(gone)
        unsent = [self._timed(job, patience) for job in self._again]
        self._asked |= {job.client: job for job in self._again}
        say_why = unneeded if self._enough() else late
        for job in (*self._under_way.values(), *unsent):
            since = job.round_index if job.client in stay else 0
            yield self._asked[job.client], dataclasses.replace(say_why(job), since=since)

    def again(self, job: ClientJob) -> None:
        """Ask a client again, as soon as what has come meanwhile is seen through."""
        self._again.append(job)

    def _send(self, patience: Patience) -> None:
        if not self._again:
            return
        sent, self._again = self._again, []
        timed = [self._timed(job, patience) for job in sent]
        self._asked |= {job.client: job for job in sent}
        self._under_way |= {job.client: job for job in timed}
        self._carrier.send(timed, self._place)

    def _timed(self, job: ClientJob, patience: Patience) -> ClientJob:
        """Say how long a try may take: what the tries before it have left of the deadline."""
        spent = patience.spent() if job.attempt else 0.0
        left = max(job.deadline - spent, 0.001) if job.deadline else 0.0
        return dataclasses.replace(job, deadline=left)


def late(job: ClientJob) -> ClientFailure:
    """Say that a client took longer than its round gives it."""
    reason = f"late: no report after {job.deadline:.3g} seconds (federation.round_timeout)"
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason, late=True)


def unneeded(job: ClientJob) -> ClientFailure:
    """Say that a round was closed before a client has reported."""
    reason = "closed: others had reported by then, as many as a round takes (federation.close_at)"
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason, late=True)
