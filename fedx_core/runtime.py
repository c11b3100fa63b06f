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
        deadline = jobs[0].deadline if jobs else 0.0
        if not deadline and (self.workers == 1 or len(jobs) == 1):
            yield from (attempt(job, place) for job in jobs)
            return
        ends = time.monotonic() + (deadline or math.inf)
        queue = list(reversed(jobs))
        running: dict[Future[Outcome], ClientJob] = {}
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="fedx-client")
        try:
            while queue or running:
                while queue and len(running) < self.workers:
                    job = queue.pop()
                    running[pool.submit(attempt, job, place)] = job
                left = ends - time.monotonic()
                done, _ = wait(running, left if deadline else None, FIRST_COMPLETED)
                if not done:
                    yield from (late(job) for job in (*running.values(), *reversed(queue)))
                    return
                for future in done:
                    del running[future]
                    yield future.result()
        finally:
            # A late client's thread ends by itself; what it still stores is never counted.
            pool.shutdown(wait=not deadline, cancel_futures=True)


def late(job: ClientJob) -> ClientFailure:
    """Say that a client took longer than its round gives it."""
    reason = f"late: no report after {job.deadline:g} seconds (federation.round_timeout)"
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
