"""The flow ``fedx``, deployed as ``fedx/round-loop``: a whole federated run."""

from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.base import logs
from flows.ending import lifeline
from flows.prefect import children
from flows.settings import form
from flows.settings.request import How, Request


@flow(
    name="fedx",
    persist_result=False,
    on_cancellation=[children.cancel_clients],
    on_crashed=[children.cancel_clients],
)
@form.asking
def fedx(request: Request, how: How) -> dict[str, Any] | State[Any]:
    """Run one federated experiment and keep its results in ``runs/<run>``.

    Everything left empty is as ``params.yaml`` has it. Retried, a flow run goes on with the run
    that it has begun. Returns what ``results/summary.json`` says, or that it was cancelled.
    """
    # Imported here: deploying, and workers that only cancel, need no torch.
    from fedx_core.base import cores
    from flows import tracking
    from flows.deployments.announce import Announced
    from flows.running import again
    from flows.running.experiment import carry_out, settle
    from flows.runs import live
    from flows.tracking import places

    if flow_run.run_count > 1:
        request = again.go_on(request, flow_run.tags)
        children.cancel_left_over(flow_run.id)
    settled = settle(request)
    with get_client(sync_client=True) as client:
        tags = {*flow_run.tags, again.tag_of(settled.run)}
        client.update_flow_run(flow_run.id, name=f"fedx {settled.run}", tags=sorted(tags))
    page = places.prefect_page(str(flow_run.id))
    display = Announced(live.display(how.show, get_run_logger().info, page), settled.folder)
    # A worker of Prefect's may be killed with this process in it.
    with logs.shown(), lifeline.held():
        try:
            return carry_out(
                settled,
                run_at=how.run_at or "threads",
                workers=how.workers or cores.allowed(),
                clients_per_task=how.clients_per_task,
                display=display,
                tracker=tracking.tracker(how.track, display.warn, display.mention),
                prefect_run=str(flow_run.id),
            )
        except KeyboardInterrupt:
            if not display.cancelled:
                raise
            return Cancelled(message=f"go on with: fedx resume {settled.run}")
