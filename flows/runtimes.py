"""Ways to carry a round with Prefect: on a task runner, or on work pools at separate sites.

What they run is the same as in process, bit for bit. Tensors never enter Prefect: a server step is
a task without parameters and without a result (what it returns comes back past the engine, which
would keep every result until the flow ends), and a client is told names and hashes.
"""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fedx_core.client import Place
from fedx_core.errors import ConfigError, FedXError, RunError
from fedx_core.messages import ClientFailure, ClientJob, ClientReport, ServerState, parse, plain
from fedx_core.runtime import InProcess, Outcome, Runtime, late
from fedx_core.store import open_store
from flows.choices import RunAt

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.task_runners import TaskRunner

T = TypeVar("T")

DEPLOYMENT = "fedx-client/train"
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""How long a client's run may wait for a worker before we say so."""


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
        return nullcontext(OnWorkPools(workers, warn))
    return OnTaskRunner.opened(workers, processes=run_at == "processes")


def server_task(name: str, step: Callable[..., T], arguments: Sequence[Any]) -> T:
    """Run a server's step as a Prefect task named after it and its round, such as ``prune-r7``."""
    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    returned: list[T] = []

    def body() -> None:
        returned.append(step(*arguments))

    Task(
        body,
        name=name,
        task_run_name=f"{name}-r{_round_of(name, arguments)}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )()
    return returned[0]


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

        from flows.client import train_plainly

        where = plain(place)
        futures = {}
        for job in jobs:
            client_task = Task(
                train_plainly,
                name=job.purpose,
                task_run_name=f"r{job.round_index}-{job.client}",
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
                    yield _failure(job, f"{getattr(error, 'code', type(error).__name__)}: {error}")
        except TimeoutError:
            # They end by themselves, and what they still store is never counted.
            yield from (late(job) for job in futures.values())
        if broken:
            self._runner.__exit__(None, None, None)
            self._runner = _pool(self.workers, self.processes)
            self._runner.__enter__()


@dataclass
class OnWorkPools:
    """Clients as flow runs of a deployment, at whatever site has a worker for its pool.

    Args:
        workers: threads for evaluation at the server.
        warn: takes one line for people.
        deployment: ``FLOW/DEPLOYMENT`` of the clients.
        nonce: tells this server process from an earlier one of the same run: Prefect answers an
            idempotency key that it knows with the old flow run, even one that has crashed.
    """

    workers: int
    warn: Callable[[str], None] = print
    deployment: str = DEPLOYMENT
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run it as a task in this thread."""
        return server_task(name, step, arguments)

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        """Start a flow run for each client, then watch them until they end or are too late."""
        from prefect.client.orchestration import get_client

        started = time.monotonic()
        waiting = {self._start(job, place): job for job in jobs}
        store = open_store(place.store)
        warned = False
        with get_client(sync_client=True) as client:
            try:
                while waiting:
                    time.sleep(POLL_SECONDS)
                    spent = time.monotonic() - started
                    runs = _runs(client, list(waiting))
                    for run in runs:
                        if run.state is not None and run.state.is_final():
                            yield _outcome(store.read, waiting.pop(run.id), run)
                    overdue = [
                        i for i, job in waiting.items() if job.deadline and spent > job.deadline
                    ]
                    for run_id in overdue:
                        job = waiting.pop(run_id)
                        _cancel(client, run_id)
                        yield late(job)
                    if not warned and spent > PATIENCE_SECONDS:
                        warned = self._warned_of_idleness(runs)
            finally:
                for run_id in waiting:
                    _cancel(client, run_id)

    def _start(self, job: ClientJob, place: Place) -> "UUID":
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound

        try:
            run: Any = run_deployment(
                self.deployment,
                parameters={"job": plain(job), "place": plain(place)},
                flow_run_name=f"r{job.round_index}-{job.client}",
                tags=[f"run:{job.run}", f"client:{job.client}"],
                idempotency_key=f"{job.run}/{job.purpose}/{job.round_index}/{job.client}/"
                f"{job.attempt}/{self.nonce}",
                timeout=0,
                as_subflow=True,
            )
        except ObjectNotFound as error:
            raise RunError(
                f"no deployment {self.deployment!r} on this Prefect server; make it with "
                "`prefect --no-prompt deploy --all` in FedX's folder (see prefect.yaml)"
            ) from error
        run_id: UUID = run.id
        return run_id

    def _warned_of_idleness(self, runs: Sequence["FlowRun"]) -> bool:
        idle = [run for run in runs if run.state is not None and run.state.is_scheduled()]
        if idle:
            self.warn(
                f"{len(idle)} runs of {self.deployment} have waited {PATIENCE_SECONDS:.0f} s for a "
                f"worker; start one with `prefect worker start --pool {idle[0].work_pool_name}`"
            )
        return bool(idle)


def _pool(workers: int, processes: bool) -> "TaskRunner[Any]":
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

    if processes:
        return ProcessPoolTaskRunner(max_workers=workers, initializer=_leave_interrupts)
    return ThreadPoolTaskRunner(max_workers=workers)


def _leave_interrupts() -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the server's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _round_of(name: str, arguments: Sequence[Any]) -> int:
    """Find out a step's round: the state's own, or the next one for steps before it exists."""
    state = next(argument for argument in arguments if isinstance(argument, ServerState))
    return state.round_index + (name in ("dispatch", "aggregate"))


def _runs(client: "SyncPrefectClient", ids: list["UUID"]) -> list["FlowRun"]:
    """Read flow runs in one request; what can't be read now is read next time."""
    import httpx
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)), limit=len(ids)
        )
    except (httpx.TransportError, PrefectHTTPStatusError):
        # The server may be restarting. Deadlines still hold, and the clients go on.
        return []


def _outcome(
    read: Callable[[str], bytes | bytearray | memoryview | None], job: ClientJob, run: "FlowRun"
) -> Outcome:
    """Believe the store, not Prefect: a report that is there counts, whatever became of the run."""
    import json

    try:
        report = read(job.report_key)
        if report is not None:
            return parse(ClientReport, json.loads(bytes(report)))
    except (FedXError, ValueError) as error:
        return _failure(job, f"unreadable report: {error}")
    state = run.state
    assert state is not None
    said = f": {state.message}" if state.message else ""
    return _failure(job, f"flow run {run.name} ({run.id}) is {state.name} without a report{said}")


def _cancel(client: "SyncPrefectClient", run_id: "UUID") -> None:
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.states import Cancelling

    try:
        client.set_flow_run_state(run_id, Cancelling())
    except (httpx.TransportError, PrefectHTTPStatusError):
        # It ends by itself; its report, write-once and of another attempt, harms nobody.
        return


def _failure(job: ClientJob, reason: str) -> ClientFailure:
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
