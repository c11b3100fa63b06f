"""Clients on Prefect's work pools: flow runs of a deployment, at whatever site has a worker.

Which deployment and which work queue a client's jobs go to are patterns in which ``{client}``
stands for its name: ``fedx-client/{client}`` gives each site a deployment, and so a work pool, of
its own; ``fedx-client/train`` with the queue ``{client}`` shares one pool.
"""

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from fedx_core.base import strict_json
from fedx_core.base.errors import ConfigError, FedXError, RunError, StoreError
from fedx_core.base.frozen_json import parse, plain
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import Outcome
from fedx_core.store import open_store
from fedx_core.wire.messages import LARGEST_MESSAGE, ClientFailure, ClientJob, ClientReport
from flows.prefect import children
from flows.prefect.prompt import Away, Prompt
from flows.prefect.server_tasks import server_task

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

T = TypeVar("T")
Read = Callable[[str, int], bytes | bytearray | memoryview | None]

DEPLOYMENT = "fedx-client/train"
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
"""How long a client's run may wait for a worker before we say so."""
LOOK_SECONDS = 10.0
"""How often we look for reports of runs that Prefect calls unfinished: nobody could tell it of an
end while its server was away."""


@dataclass
class OnWorkPools:
    """Carries clients as flow runs, and server steps as tasks in this thread.

    Args:
        workers: threads for evaluation at the server.
        warn: takes one line for people.
        deployment: ``FLOW/DEPLOYMENT`` of the clients, with ``{client}`` for a client's name.
        queue: work queue of its pool, with ``{client}`` likewise; empty takes the deployment's own.
        nonce: tells this server process from an earlier one of the same run: Prefect answers an
            idempotency key that it knows with the old flow run, even one that has crashed.
    """

    workers: int
    warn: Callable[[str], None] = print
    deployment: str = DEPLOYMENT
    queue: str = ""
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _watch: "_Watch | None" = field(default=None, init=False)

    @classmethod
    def configured(cls, workers: int, warn: Callable[[str], None]) -> "OnWorkPools":
        """Take the patterns from FEDX_CLIENT_DEPLOYMENT and FEDX_CLIENT_QUEUE.

        Raises:
            ConfigError: a pattern has something else in braces than ``{client}``.
        """
        found = {}
        for name in ("deployment", "queue"):
            variable = f"FEDX_CLIENT_{name.upper()}"
            if pattern := os.environ.get(variable):
                try:
                    pattern.format(client="")
                except (LookupError, ValueError) as error:
                    raise ConfigError(
                        f"{variable} is {pattern!r}; only {{client}} may stand in braces there, "
                        "as in fedx-client/{client}"
                    ) from error
                found[name] = pattern
        return cls(workers, warn, **found)

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run it as a task in this thread."""
        return server_task(name, step, arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Note which flow runs to start: Prefect's server may be away just now."""
        if self._watch is None:
            self._watch = _Watch(ask=Prompt().__enter__(), read=open_store(place.store).read)
        self._watch.unstarted += [(job, place) for job in jobs]

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Start a flow run for each job, then look once which have ended.

        While Prefect's server is away, clients go on, deadlines hold and nothing is started twice.
        """
        if (watch := self._watch) is None:
            return []
        runs: list[FlowRun] = []
        try:
            while watch.unstarted:
                job, place = watch.unstarted[0]
                run_id = self._start(watch.ask, job, place)
                watch.waiting[run_id] = (job, time.monotonic())
                del watch.unstarted[0]
            pause = POLL_SECONDS if timeout is None else min(POLL_SECONDS, timeout)
            time.sleep(pause)
            runs = children.read(watch.ask, list(watch.waiting))
        except Away as error:
            if not watch.away:
                self.warn(f"Prefect's server does not answer ({error}); waiting for it")
            watch.away = True
            time.sleep(POLL_SECONDS)
        outcomes = [
            _outcome(watch.read, watch.waiting.pop(run.id)[0], run)
            for run in runs
            if run.state is not None and run.state.is_final()
        ]
        if time.monotonic() - watch.looked > LOOK_SECONDS:
            for run_id, (job, _) in list(watch.waiting.items()):
                if (outcome := _reported(watch.read, job)) is not None:
                    del watch.waiting[run_id]
                    outcomes.append(outcome)
            watch.looked = time.monotonic()
        if not watch.idle:
            watch.idle = self._warned_of_idleness(watch, runs)
        self._rest(watch)
        return outcomes

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Cancel their flow runs."""
        if (watch := self._watch) is None:
            return
        gone = {job.uplink_key for job in jobs}
        watch.unstarted = [item for item in watch.unstarted if item[0].uplink_key not in gone]
        left = [i for i, (job, _) in watch.waiting.items() if job.uplink_key in gone]
        for run_id in left:
            del watch.waiting[run_id]
        try:
            children.cancel(watch.ask, left)
        finally:
            self._rest(watch)

    def _rest(self, watch: "_Watch") -> None:
        """Close Prefect's client where nothing is under way."""
        if not (watch.unstarted or watch.waiting):
            self._watch = None
            watch.ask.__exit__(None, None, None)

    def _start(self, ask: Prompt, job: ClientJob, place: Place) -> "UUID":
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound

        from flows.prefect.client import name_of

        deployment = self.deployment.format(client=job.client)
        try:
            run: Any = ask(
                run_deployment,
                deployment,
                parameters={"job": plain(job), "place": plain(place)},
                flow_run_name=name_of(job.round_index, job.client, job.purpose, job.attempt),
                tags=[f"run:{job.run}", f"client:{job.client}"],
                # The uplink's key also says how often a run went back to before this round.
                idempotency_key=f"{job.run}/{job.purpose}/{job.round_index}/{job.uplink_key}/"
                f"{self.nonce}",
                work_queue_name=self.queue.format(client=job.client) or None,
                timeout=0,
                as_subflow=True,
            )
        except ObjectNotFound as error:
            raise RunError(
                f"no deployment {deployment!r} on this Prefect server; make it with "
                "`prefect --no-prompt deploy --all` in FedX's folder (see prefect.yaml)"
                + (", or change FEDX_CLIENT_DEPLOYMENT" if self.deployment != DEPLOYMENT else "")
            ) from error
        run_id: UUID = run.id
        return run_id

    def _warned_of_idleness(self, watch: "_Watch", runs: Sequence["FlowRun"]) -> bool:
        before = time.monotonic() - PATIENCE_SECONDS
        old = {run_id for run_id, (_, began) in watch.waiting.items() if began < before}
        idle = [r for r in runs if r.id in old and r.state is not None and r.state.is_scheduled()]
        if idle:
            queue = f" --work-queue {idle[0].work_queue_name}" if self.queue else ""
            self.warn(
                f"{len(idle)} runs of {self.deployment} have waited {PATIENCE_SECONDS:.0f} s for a "
                f"worker; start one with `prefect worker start --pool {idle[0].work_pool_name}"
                f"{queue}`"
            )
        return bool(idle)


@dataclass
class _Watch:
    """Flow runs to be started, and under way since when: of one question, or of several."""

    ask: Prompt
    read: Read
    unstarted: list[tuple[ClientJob, Place]] = field(default_factory=list)
    waiting: "dict[UUID, tuple[ClientJob, float]]" = field(default_factory=dict)
    looked: float = field(default_factory=time.monotonic)
    idle: bool = False
    away: bool = False


def _outcome(read: Read, job: ClientJob, run: "FlowRun") -> Outcome:
    """Believe the store, not Prefect: a report that is there counts, whatever became of the run."""
    if (found := _reported(read, job)) is not None:
        return found
    state = run.state
    assert state is not None
    said = f": {state.message}" if state.message else ""
    return _failure(job, f"flow run {run.name} ({run.id}) is {state.name} without a report{said}")


def _reported(read: Read, job: ClientJob) -> Outcome | None:
    try:
        report = read(job.report_key, LARGEST_MESSAGE)
        if report is None:
            return None
        return parse(ClientReport, strict_json.loads(report, LARGEST_MESSAGE))
    except FedXError as error:
        failure = _failure(job, f"{error.code}: unreadable report: {error}")
        return replace(failure, refused=not isinstance(error, StoreError))


def _failure(job: ClientJob, reason: str) -> ClientFailure:
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
