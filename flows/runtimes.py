"""Ways to carry a round: in this process, on a task runner of Prefect's, or on its work pools.

What they run is the same, bit for bit. Tensors never enter Prefect: a client is told names and
hashes, and what it answers is small and plain.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fedx_core.client import Place
from fedx_core.errors import ConfigError
from fedx_core.messages import ClientFailure, ClientJob, ClientReport, parse, plain
from fedx_core.runtime import InProcess, Outcome, Runtime, late
from flows.choices import RunAt
from flows.server_tasks import server_task
from flows.work_pools import OnWorkPools

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

T = TypeVar("T")


def default_workers() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(
    run_at: RunAt, workers: int, place: Place, warn: Callable[[str], None] = print
) -> AbstractContextManager[Runtime]:
    """Open a runtime; close it when the run is over.

    Args:
        run_at: see :data:`RunAt`.
        workers: clients at once on this machine, and threads for evaluation.
        place: of the run; a store in memory is of use to threads alone.
        warn: takes one line for people.

    Raises:
        ConfigError: clients in other processes can't see this store.
    """
    if run_at in ("processes", "work-pools"):
        for uri in (place.store, place.memory):
            if uri.startswith("memory://"):
                raise ConfigError(
                    f"{uri} is seen by one process only, and clients on {run_at} run in others; "
                    "use a folder, file:// or s3:// for --store, or --run-at threads"
                )
    if run_at == "here":
        return nullcontext(InProcess(workers))
    if run_at == "work-pools":
        return nullcontext(OnWorkPools.configured(workers, warn))
    return OnTaskRunner.opened(workers, processes=run_at == "processes")


@dataclass
class OnTaskRunner:
    """Clients as tasks on Prefect's thread pool or process pool, inside a flow.

    Args:
        workers: clients at once.
        processes: one process a client instead of one thread.
    """

    workers: int
    processes: bool
    _runner: "TaskRunner[Any]"

    @classmethod
    @contextmanager
    def opened(cls, workers: int, *, processes: bool) -> Iterator["OnTaskRunner"]:
        """Start the pool; stop it at the end."""
        runtime = cls(workers, processes, _pool(workers, processes))
        runtime._runner.__enter__()
        try:
            yield runtime
        finally:
            runtime._runner.__exit__(None, None, None)

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run it as a task in this thread."""
        return server_task(name, step, arguments)

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        """Yield outcomes as they come; a failed task is a lost client."""
        from prefect import Task
        from prefect.cache_policies import NO_CACHE
        from prefect.futures import as_completed

        from flows.client import name_of, train_plainly

        where = plain(place)
        futures = {}
        for job in jobs:
            client_task = Task(
                train_plainly,
                name=job.purpose,
                task_run_name=name_of(job.round_index, job.client, job.purpose, job.attempt),
                cache_policy=NO_CACHE,
                persist_result=False,
            )
            parameters = {"job": plain(job), "place": where}
            futures[self._runner.submit(client_task, parameters)] = job
        broken = False
        try:
            for future in as_completed(list(futures), timeout=jobs[0].deadline or None):
                job = futures.pop(future)
                try:
                    yield parse(ClientReport, future.result())
                except Exception as error:  # a client may fail in any way; the round goes on
                    broken |= isinstance(error, BrokenProcessPool)
                    reason = f"{getattr(error, 'code', type(error).__name__)}: {error}"
                    yield ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
        except TimeoutError:
            # They end by themselves, and what they still store is never counted.
            yield from (late(job) for job in futures.values())
        if broken:
            self._runner.__exit__(None, None, None)
            self._runner = _pool(self.workers, self.processes)
            self._runner.__enter__()


def _pool(workers: int, processes: bool) -> "TaskRunner[Any]":
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

    if processes:
        return ProcessPoolTaskRunner(max_workers=workers, initializer=_leave_interrupts)
    return ThreadPoolTaskRunner(max_workers=workers)


def _leave_interrupts() -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the server's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
