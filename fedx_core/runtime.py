"""Ways to carry a round's work: the seam behind which Prefect, Dask or separate sites stand."""

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
        if self.workers == 1 or len(jobs) == 1:
            for job in jobs:
                yield attempt(job, place)
            return
        pending: set[Future[Outcome]] = set()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="fedx-client") as pool:
            try:
                for job in jobs:
                    if len(pending) >= self.workers:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                    pending.add(pool.submit(attempt, job, place))
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                for future in pending:
                    future.cancel()
