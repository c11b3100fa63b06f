"""The Prefect worker of a site: one sealed order in, one fixed command, nothing else.

Prefect's own workers run what its server says: a command, an environment, pull steps that may be
shell scripts, any function of any file. So whoever holds the server's password runs programs at
every worker. This one reads a single thing of a flow run, its parameter ``order``; hands it to
:mod:`flows.sites.take`, which believes the coordinator's signature and nobody else; and says itself
how the flow run went. Prefect's engine never starts.

    prefect worker start --type fedx-site --pool fedx-site-NAME
"""

import copy
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import httpx
from anyio.abc import TaskStatus
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Running
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from fedx_core.base.errors import FedXError
from fedx_core.base.locks import exclusive
from fedx_core.rounds import audit
from flows.sites import command
from flows.sites.folders import site_home

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State, WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

TYPE = "fedx-site"
TEMPLATE: dict[str, Any] = {
    "job_configuration": {"command": None},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}
"""Of the work pool: there is nothing to fill in, and what stands there is never read."""

STOPPED = "the site's worker was stopped; the coordinator asks again"
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts to report an end while Prefect's server is away."""


class SiteJob(BaseJobConfiguration):
    """A job about which nothing can be set."""

    @classmethod
    async def resolve_for_flow_run(
        cls,
        flow_run: "FlowRun",
        *,
        client: "PrefectClient",
        work_pool: "WorkPool",
        worker_name: str,
        worker_id: "UUID | None" = None,
        deployment: "DeploymentResponse | None" = None,
    ) -> "SiteJob":
        """Return the same for every flow run, whatever pool, deployment and run ask for."""
        return cls()


class Told(BaseWorkerResult):
    """A flow run whose end Prefect knows."""

    identifier: str = TYPE
    status_code: int = 0


class SiteWorker(BaseWorker[SiteJob, BaseVariables, Told]):
    """Takes orders for one site, one at a time unless ``--limit`` says more."""

    type = TYPE
    job_configuration = SiteJob
    _description = "Trains at a site by orders that its coordinator has signed; runs nothing else."

    def __init__(self, work_pool_name: str, *, limit: int | None = None, **named: Any) -> None:
        super().__init__(work_pool_name, limit=limit or 1, **named)
        self._at_work: set[UUID] = set()
        self._looked_back = False

    async def start(self, *arguments: Any, **named: Any) -> None:
        """Work until stopped; a site has one worker, so that it knows what earlier ones left."""
        with exclusive(site_home() / ".worker.lock", _taken):
            await super().start(*arguments, **named)

    async def sync_with_backend(self) -> None:
        """Say that the worker lives, and the first time look for what an earlier one left."""
        await super().sync_with_backend()
        if not self._looked_back:
            await self._end_left_over()
            self._looked_back = True

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Return a template without variables."""
        return copy.deepcopy(TEMPLATE)

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: SiteJob,
        task_status: TaskStatus[Any] | None = None,
    ) -> Told:
        """Hand one order to the command, and tell Prefect what came of it."""
        self._at_work.add(flow_run.id)
        try:
            return await self._run(flow_run, task_status)
        finally:
            self._at_work.discard(flow_run.id)

    async def _run(self, flow_run: "FlowRun", task_status: TaskStatus[Any] | None) -> Told:
        wanted = False
        with suppress(Abort):
            wanted = (await propose_state(self.client, Running(), flow_run.id)).is_running()
        if task_status is not None:
            task_status.started(TYPE)
        if wanted:
            try:
                end = await self._end(flow_run)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(5, shield=True):
                    await self._tell(flow_run.id, Crashed(message=STOPPED))
                raise
            await self._tell(flow_run.id, end)
        return Told()

    async def _end(self, flow_run: "FlowRun") -> "State[Any]":
        """Do what a flow run asks for, if it is an order, and return its final state."""
        try:
            order = command.order_of(flow_run.parameters)
        except FedXError as error:
            return self._refused(flow_run, error.code, str(error))
        answer = await command.carry_out(order, lambda: self._wanted(flow_run.id))
        if answer is None:
            return Cancelled(message="the site has ended the work")
        if why := answer.get("error"):
            return self._refused(flow_run, why["code"], why["message"])
        return Completed(message=answer["done"])

    def _refused(self, flow_run: "FlowRun", code: str, said: str) -> "State[Any]":
        """Write a refusal down here; of what it says, which may name folders, Prefect gets none."""
        audit.note(site_home(), "refused", code=code, said=said, flow_run=str(flow_run.id))
        return Failed(message=f"{code}: refused; the site's {audit.FILE} says why")

    async def _end_left_over(self) -> None:
        """End the flow runs of a worker that was killed, or nobody would ring here again."""
        unfinished = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        found = await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished))
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
        )
        for left in found:
            if left.id not in self._at_work | self._submitting_flow_run_ids:
                cancelled = left.state is not None and left.state.is_cancelling()
                await self._tell(left.id, (Cancelled if cancelled else Crashed)(message=STOPPED))

    async def _wanted(self, flow_run_id: "UUID") -> bool:
        """Say whether nobody has cancelled a flow run; while Prefect is away, nobody has."""
        try:
            state = (await self.client.read_flow_run(flow_run_id)).state
        except ObjectNotFound:
            return False
        except httpx.HTTPError:
            return True
        return state is None or not (state.is_cancelling() or state.is_final())

    async def _tell(self, flow_run_id: "UUID", state: "State[Any]") -> None:
        """Report a flow run's end, again and again while Prefect is away."""
        for pause in (*PAUSES, None):
            try:
                found = await propose_state(self.client, state, flow_run_id)
                if found.is_cancelling():  # the one end that Prefect takes then
                    await propose_state(self.client, Cancelled(message=state.message), flow_run_id)
            except (Abort, ObjectNotFound):
                return  # somebody else has ended it, or removed it
            except httpx.HTTPError as error:
                if pause is None:
                    self._logger.warning("can't report %s of %s: %s", state, flow_run_id, error)
                    return
                await anyio.sleep(pause)
            else:
                return


def _taken() -> NoReturn:
    raise SystemExit(
        f"another worker of this site is at work ({site_home() / '.worker.lock'} is held); end it "
        "first, or name another site's folder in FEDX_SITE_HOME"
    )
