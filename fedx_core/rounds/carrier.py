"""Who carries jobs to clients and answers back: the seam behind which Prefect, Dask or sites stand.

A carrier only carries. How long answers are waited for, who is tried again and when a question
closes is decided once for all of them, in :mod:`fedx_core.rounds.asking`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fedx_core.clients.client import Place, train
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport

T = TypeVar("T")
Outcome = ClientReport | ClientFailure


class Carrier(Protocol):
    """Three verbs for jobs, and one for the server's own steps.

    A job is known by its ``uplink_key``. Jobs of one question at a time are under way, and those of
    earlier rounds whose updates may still count; no client has two.
    """

    @property
    def workers(self) -> int:
        """How many clients run at once, and threads for evaluation."""

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run one step of the server."""

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Set jobs going, without waiting for them.

        Args:
            jobs: more of those under way, or the first ones of a question.
            place: where clients find things.
        """

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Return what has come of jobs, in any order, each once.

        Args:
            timeout: seconds to wait for the first, at most; None for as long as it takes. Who looks
                now and then, rather than being told, may come back sooner with nothing.
        """

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Wait for some jobs no more: those not begun never are, and what comes is not heard."""


def attempt(job: ClientJob, place: Place) -> Outcome:
    """Train one client; whatever goes wrong becomes a value with its reason."""
    try:
        return train(job, place)
    except Exception as error:  # a client may fail in any way; the round goes on without it
        return lost(job, error)


def lost(job: ClientJob, error: Exception) -> ClientFailure:
    """Say of a job what went wrong."""
    reason = f"{getattr(error, 'code', type(error).__name__)}: {error}"
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason)


@dataclass
class InProcess:
    """Worker threads in this process, each with its own model and one thread of torch.

    No more clients are under way than there are workers. A single worker is the caller's own
    thread, unless there is a deadline to keep.
    """

    workers: int = 1
    _queue: deque[tuple[ClientJob, Place]] = field(
        default_factory=deque, init=False, repr=False, compare=False
    )
    _running: dict[Future[Outcome], ClientJob] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False, compare=False)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        """Do one job."""
        return attempt(job, place)

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Call it."""
        return step(*arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Put them at the end of the queue."""
        self._queue.extend((job, place) for job in jobs)

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Keep all workers at work until one of them is done."""
        alone = self.workers == 1 or len(self._queue) == 1
        if timeout is None and alone and self._queue and not self._running:
            return [self.do(*self._queue.popleft())]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="fedx-client")
        while self._queue and len(self._running) < self.workers:
            job, place = self._queue.popleft()
            self._running[self._pool.submit(self.do, job, place)] = job
        ended, _ = wait(self._running, timeout, FIRST_COMPLETED)
        done = [future for future in self._running if future in ended]
        for future in done:
            del self._running[future]
        if not self._running and not self._queue:
            self._leave_pool()
        return [future.result() for future in done]

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Begin none of them, and let those under way end.

        A client with a deadline is late, so its thread is left alone and ends by itself; what it
        still stores is never counted. Others are waited for, lest they slow down who comes next.
        """
        gone = {job.uplink_key for job in jobs}
        self._queue = deque(item for item in self._queue if item[0].uplink_key not in gone)
        left = {future: job for future, job in self._running.items() if job.uplink_key in gone}
        for future in left:
            del self._running[future]
            future.cancel()
        wait([future for future, job in left.items() if not job.deadline])
        if left:  # a late client has a worker that whoever comes next does not wait for
            self._leave_pool()

    def _leave_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._pool = None
