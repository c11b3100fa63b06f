"""Ways to carry a round: in this process, on Prefect's task runners or work pools, or at sites.

Task runners are Prefect's threads, its processes, and Dask.

What they run is the same, bit for bit. Tensors never enter Prefect: a client is told names and
hashes, and what it answers is small and plain.
"""

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fedx_core.base.errors import ConfigError
from fedx_core.base.frozen_json import parse, plain
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import Carrier, InProcess, Outcome, lost
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport
from flows.carriers import dask_cluster
from flows.carriers.at_sites import AtSites
from flows.carriers.work_pools import OnWorkPools
from flows.prefect.server_tasks import server_task
from flows.settings.choices import RunAt

if TYPE_CHECKING:
    from prefect.futures import PrefectWrappedFuture
    from prefect.task_runners import TaskRunner

    Future = PrefectWrappedFuture[Any, Any]

T = TypeVar("T")
Pool = Literal["threads", "processes", "dask"]

TASKS: dict[Pool, int] = {"threads": 100, "processes": 20, "dask": 20}
"""From how many clients on they share tasks: a task costs some 15 ms on threads, 230 on Dask."""


def choose(
    run_at: RunAt,
    workers: int,
    place: Place,
    warn: Callable[[str], None] = print,
    clients_per_task: int | None = None,
    *,
    engine: bool = True,
) -> AbstractContextManager[Carrier]:
    """Open a carrier; close it when the run is over.

    Args:
        run_at: see :data:`RunAt`.
        workers: clients at once on this machine, and threads for evaluation.
        place: of the run; a store in memory is of use to threads alone.
        warn: takes one line for people.
        clients_per_task: see :class:`OnTaskRunner`.
        engine: whether a Prefect flow runs this; only sites can do without.

    Raises:
        ConfigError: clients in other processes can't see this store, or there are no tasks that
            could have several clients.
    """
    if run_at in ("processes", "dask", "work-pools"):
        for uri in (place.store, place.memory):
            if uri.startswith("memory://"):
                raise ConfigError(
                    f"{uri} is seen by one process only, and clients on {run_at} run in others; "
                    "use a folder, file:// or s3:// for --store, or --run-at threads"
                )
    if (clients_per_task or 1) > 1 and run_at in ("here", "work-pools", "sites"):
        raise ConfigError(
            f"{clients_per_task} clients per task were asked for, but --run-at {run_at} has no "
            "tasks of clients; leave --clients-per-task out, or use threads, processes or dask"
        )
    if run_at == "here":
        return nullcontext(InProcess(workers))
    if run_at == "work-pools":
        return nullcontext(OnWorkPools.configured(workers, warn))
    if run_at == "sites":
        return nullcontext(AtSites.configured(workers, warn, place, engine=engine))
    return OnTaskRunner.opened(workers, run_at, clients_per_task)


@dataclass
class OnTaskRunner:
    """Clients as tasks on Prefect's thread pool, its process pool, or Dask, inside a flow.

    Args:
        workers: clients at once.
        kind: of the pool.
        clients_per_task: clients that one task trains one after another. A task costs Prefect some
            milliseconds on threads and some hundred elsewhere, which many short clients then share;
            what they answer comes, or is late, together. None is one, and of more clients than
            :data:`TASKS` as many as make that many tasks, unless their round has a deadline.
    """

    workers: int
    kind: Pool
    clients_per_task: int | None
    _runner: "TaskRunner[Any]"
    _going: "dict[Future, Sequence[ClientJob]]" = field(default_factory=dict, init=False)
    _ended: "SimpleQueue[Future]" = field(default_factory=SimpleQueue, init=False)

    @classmethod
    @contextmanager
    def opened(
        cls, workers: int, kind: Pool, clients_per_task: int | None = None
    ) -> Iterator["OnTaskRunner"]:
        """Start the pool; stop it at the end."""
        carrier = cls(workers, kind, clients_per_task, _pool(kind, workers))
        carrier._runner.__enter__()
        try:
            if kind == "dask":
                dask_cluster.reach(carrier._runner)
            yield carrier
        finally:
            carrier._stop()

    def _stop(self) -> None:
        self._runner.__exit__(None, None, None)

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run it as a task in this thread."""
        return server_task(name, step, arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Submit them as tasks."""
        from prefect import Task
        from prefect.cache_policies import NO_CACHE

        from flows.prefect.client import name_of_group, train_plainly

        where = plain(place)
        size = self.clients_per_task or _share(jobs, self.workers, TASKS[self.kind])
        for start in range(0, len(jobs), size):
            group = jobs[start : start + size]
            client_task = Task(
                train_plainly,
                name=group[0].purpose,
                task_run_name=name_of_group(group),
                cache_policy=NO_CACHE,
                persist_result=False,
            )
            future = self._runner.submit(client_task, {"jobs": plain(group), "place": where})
            self._going[future] = group
            future.add_done_callback(self._ended.put)

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Wait for a task to end; one that failed is a lost client, or several."""
        outcomes: list[Outcome] = []
        ended = self._next(timeout) if self._going else None
        broken = False
        while ended is not None:
            group = self._going.pop(ended, ())  # empty of those dropped, and of a broken pool's
            try:
                if group:
                    outcomes += [_outcome(answer) for answer in ended.result()]
            except Exception as error:  # a client may fail in any way; the round goes on
                broken |= isinstance(error, BrokenProcessPool)
                outcomes += [lost(job, error) for job in group]
            # All tasks of a broken pool have failed with it.
            ended = next(iter(self._going), None) if broken else self._next(0.0)
        if broken:
            self._stop()
            self._runner = _pool(self.kind, self.workers)
            self._runner.__enter__()
        return outcomes

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Cancel the tasks that wait; others end by themselves, and are never counted."""
        gone = {job.uplink_key for job in jobs}
        for future, group in list(self._going.items()):
            if gone.issuperset(job.uplink_key for job in group):
                del self._going[future]
                future.wrapped_future.cancel()

    def _next(self, timeout: float | None) -> "Future | None":
        try:
            return self._ended.get(timeout=timeout)
        except Empty:
            return None


def _share(jobs: Sequence[ClientJob], workers: int, tasks: int) -> int:
    """Return how many clients each of some ``tasks`` takes; one where the round has a deadline."""
    if not jobs or jobs[0].deadline:
        return 1
    return math.ceil(len(jobs) / max(tasks, 4 * workers))


def _pool(kind: Pool, workers: int) -> "TaskRunner[Any]":
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

    if kind == "dask":
        return dask_cluster.task_runner(workers)
    if kind == "processes":
        return ProcessPoolTaskRunner(max_workers=workers, initializer=_leave_interrupts)
    return ThreadPoolTaskRunner(max_workers=workers)


def _outcome(answer: Mapping[str, Any]) -> Outcome:
    if "reason" in answer:
        return parse(ClientFailure, answer)
    return parse(ClientReport, answer)


def _leave_interrupts() -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the server's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
