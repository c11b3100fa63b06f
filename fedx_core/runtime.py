"""Ways to carry a round's work: the seam behind which Prefect, Dask or separate sites stand."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fedx_core.client import Place, train
from fedx_core.messages import ClientFailure, ClientJob, ClientReport

T = TypeVar("T")
Outcome = ClientReport | ClientFailure


class Runtime(Protocol):
    """Two verbs. A runtime only carries: what it runs is the same everywhere."""

    @property
    def workers(self) -> int:
        """How many clients run at once, and threads for evaluation."""

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run one step of the server."""

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        """Run clients and yield what comes of each, in any order."""


class Patience:
    """How long some jobs are waited for: to their deadline, or longer while too few have reported.

    Args:
        jobs: of one cohort; they share a deadline, and begin now.
    """

    def __init__(self, jobs: Sequence[ClientJob]) -> None:
        first = jobs[0] if jobs else None
        self._needed = first.needed if first else 0
        self._soft = time.monotonic() + ((first.deadline if first else 0.0) or math.inf)
        self._hard = self._soft + (first.grace if first else 0.0)

    def saw(self, outcome: Outcome) -> None:
        """Count what came of a job, if it may count."""
        self._needed -= isinstance(outcome, ClientReport)

    def left(self) -> float | None:
        """Return for how many seconds to wait from now on, 0 or more; None for ever."""
        ends = self._hard if self._needed > 0 else self._soft
        return None if ends == math.inf else max(ends - time.monotonic(), 0.0)

    def is_over(self) -> bool:
        """Tell whether who has not reported by now is late."""
        return self.left() == 0.0


def attempt(job: ClientJob, place: Place) -> Outcome:
    """Train one client; whatever goes wrong becomes a value with its reason."""
    try:
        return train(job, place)
    except Exception as error:  # a client may fail in any way; the round goes on without it
        code = getattr(error, "code", type(error).__name__)
        return ClientFailure(client=job.client, attempt=job.attempt, reason=f"{code}: {error}")


@dataclass(frozen=True)
class InProcess:
    """Worker threads in this process, each with its own model and one thread of torch."""

    workers: int = 1

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Call it."""
        return step(*arguments)

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        """Yield outcomes as they come; no more clients are under way than there are workers."""
        patience = Patience(jobs)
        deadline = patience.left() is not None
        if not deadline and (self.workers == 1 or len(jobs) == 1):
            yield from (attempt(job, place) for job in jobs)
            return
        queue = list(reversed(jobs))
        running: dict[Future[Outcome], ClientJob] = {}
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="fedx-client")
        try:
            while queue or running:
                while queue and len(running) < self.workers:
                    job = queue.pop()
                    running[pool.submit(attempt, job, place)] = job
                done, _ = wait(running, patience.left(), FIRST_COMPLETED)
                for future in done:
                    del running[future]
                    patience.saw(future.result())
                    yield future.result()
                if patience.is_over():
                    yield from (late(job) for job in (*running.values(), *reversed(queue)))
                    return
        finally:
            # A late client's thread ends by itself; what it still stores is never counted.
            pool.shutdown(wait=not deadline, cancel_futures=True)


def late(job: ClientJob) -> ClientFailure:
    """Say that a client took longer than its round gives it."""
    reason = f"late: no report after {job.deadline:.3g} seconds (federation.round_timeout)"
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason, late=True)
