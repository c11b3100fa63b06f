"""Clients on Prefect's work pools: flow runs of a deployment, at whatever site has a worker.

Which deployment and which work queue a client's jobs go to are patterns in which ``{client}``
stands for its name: ``fedx-client/{client}`` gives each site a deployment, and so a work pool, of
its own; ``fedx-client/train`` with the queue ``{client}`` shares one pool.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fedx_core import strict_json
from fedx_core.client import Place
from fedx_core.errors import ConfigError, FedXError, RunError
from fedx_core.frozen_json import parse, plain
from fedx_core.messages import LARGEST_MESSAGE, ClientFailure, ClientJob, ClientReport
from fedx_core.runtime import Outcome, Patience, late
from fedx_core.store import open_store
from flows import children
from flows.prompt import Away, Prompt
from flows.server_tasks import server_task

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

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        """Start a flow run for each client, then watch them until they end or are too late.

        While Prefect's server is away, clients go on, deadlines hold and nothing is started twice.
        """
        started, patience = time.monotonic(), Patience(jobs)
        unstarted = list(jobs)
        waiting: dict[UUID, ClientJob] = {}
        read = open_store(place.store).read
        looked = started
        idle = away = False
        with Prompt() as ask:
            try:
                while unstarted or waiting:
                    runs: list[FlowRun] = []
                    try:
                        while unstarted:
                            waiting[self._start(ask, unstarted[0], place)] = unstarted[0]
                            del unstarted[0]
                        time.sleep(POLL_SECONDS)
                        runs = children.read(ask, list(waiting))
                    except Away as error:
                        if not away:
                            self.warn(f"Prefect's server does not answer ({error}); waiting for it")
                        away = True
                        time.sleep(POLL_SECONDS)
                    for run in runs:
                        if run.state is not None and run.state.is_final():
                            found = _outcome(read, waiting.pop(run.id), run)
                            patience.saw(found)
                            yield found
                    if time.monotonic() - looked > LOOK_SECONDS:
                        there = {i: _reported(read, job) for i, job in waiting.items()}
                        for run_id, outcome in there.items():
                            if outcome is not None:
                                del waiting[run_id]
                                patience.saw(outcome)
                                yield outcome
                        looked = time.monotonic()
                    if patience.is_over():
                        yield from (late(job) for job in (*waiting.values(), *unstarted))
                        return  # and cancel those that wait
                    if not idle and time.monotonic() - started > PATIENCE_SECONDS:
                        idle = self._warned_of_idleness(runs)
            finally:
                children.cancel(ask, waiting)

    def _start(self, ask: Prompt, job: ClientJob, place: Place) -> "UUID":
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound

        from flows.client import name_of

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

    def _warned_of_idleness(self, runs: Sequence["FlowRun"]) -> bool:
        idle = [run for run in runs if run.state is not None and run.state.is_scheduled()]
        if idle:
            queue = f" --work-queue {idle[0].work_queue_name}" if self.queue else ""
            self.warn(
                f"{len(idle)} runs of {self.deployment} have waited {PATIENCE_SECONDS:.0f} s for a "
                f"worker; start one with `prefect worker start --pool {idle[0].work_pool_name}"
                f"{queue}`"
            )
        return bool(idle)


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
        return _failure(job, f"{error.code}: unreadable report: {error}")


def _failure(job: ClientJob, reason: str) -> ClientFailure:
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
