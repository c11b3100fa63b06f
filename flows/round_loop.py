"""The flow ``fedx``, deployed as ``fedx/round-loop``: a whole federated run."""

import os
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows import children, form, lifeline, logs
from flows.choices import RunAt, Show, Track


@flow(
    name="fedx",
    persist_result=False,
    on_cancellation=[children.cancel_clients],
    on_crashed=[children.cancel_clients],
)
def fedx(
    dataset: form.DataSet = form.AS_SET,
    model: form.Model = form.AS_SET,
    method: form.Method = form.AS_SET,
    preset: form.Preset = form.AS_SET,
    relevance: form.Criterion = form.AS_SET,
    pruning_rate: form.Share = None,
    warmup_rounds: form.Count = None,
    rounds: form.Count = None,
    seed: int | None = None,
    run: form.Name = "",
    overrides: dict[str, Any] = {},  # noqa: B006  the form shows it, and nobody changes it
    params: form.Text = "",
    resume: bool = False,
    branch_from: form.Origin = "",
    sweep: form.Name = "",
    run_at: RunAt = "threads",
    workers: form.Count = None,
    clients_per_task: form.Count = None,
    run_root: form.Text = "",
    data_root: form.Text = "",
    store: form.Text = "",
    track: Track = "mlflow",
    show: Show = "log",
) -> dict[str, Any] | State[Any]:
    """Run one federated experiment and keep its results in ``runs/<run>``.

    Everything left empty is as ``params.yaml`` has it. Retried, a flow run goes on with the run
    that it has begun.

    Args:
        dataset: The data set to train on, of those in params.yaml. For one of another file leave
            this as it is, or name it in overrides.
        model: What is trained.
        method: How it is trained together.
        preset: Settings that are shipped for that method, which must be named then: its own
            paper's, or those under FedX's experiment. The others go over them.
        relevance: Criterion by which units are pruned; only methods that prune have one.
        pruning_rate: Share of each layer's units removed by a pruning event, in [0, 1); None is as
            in params.yaml.
        warmup_rounds: Completed rounds before the pruning event, 1 or more; None is as in
            params.yaml.
        rounds: Rounds in all, 1 or more; when a run is resumed it may be raised. None is as in
            params.yaml.
        seed: Root of all random draws, a whole number; None is as in params.yaml.
        run: Name of the run; empty makes one up, such as fedx-lrp-q0.5-synthetic-s1.
        overrides: Other settings by dotted path, such as {"training.epochs": 1}; they come last.
        params: File with the settings; empty takes params.yaml.
        resume: Go on with this run after its last committed round.
        branch_from: RUN@ROUND, such as base@10: that run's rounds up to that one are shared
            instead of run again.
        sweep: What the run is one of; MLflow shows such runs below one.
        run_at: Who trains: here (this process, no tasks), threads, processes, dask (a cluster of
            this machine, or that of FEDX_DASK_SCHEDULER), work-pools (the workers of
            fedx-client/train, or of what FEDX_CLIENT_DEPLOYMENT names), or sites (institutions that
            have the data and were admitted).
        workers: Clients at once on this machine, 1 or more; None takes its cores.
        clients_per_task: Clients that one task trains one after another on threads, processes or
            dask; None is 1, and more where a round without a deadline has more than 100 clients, on
            processes and dask 20.
        run_root: Folder of all runs; empty takes FEDX_RUN_ROOT, or runs.
        data_root: Folder of all data sets; empty takes FEDX_DATA_ROOT, or data.
        store: URI that the runs share, such as s3://fedx/runs; empty takes FEDX_STORE, or keeps
            the store in the run's folder.
        track: Where numbers are copied to.
        show: Where progress goes: this page's log, a terminal, JSON lines on stdout, or nowhere.

    Returns:
        What ``results/summary.json`` says; or that the flow run was cancelled.
    """
    # Imported here: deploying, and workers that only cancel, need no torch.
    from flows import again, live, tracking
    from flows.announce import Announced
    from flows.experiment import Request, carry_out, settle
    from flows.runtimes import default_workers
    from flows.tracking import places

    environment = os.environ.get
    request = Request(
        run=form.given(run),
        dataset=form.given(dataset),
        model=form.given(model),
        method=form.given(method),
        preset=form.given(preset),
        relevance=form.given(relevance),
        pruning_rate=pruning_rate,
        warmup_rounds=warmup_rounds,
        rounds=rounds,
        seed=seed,
        overrides=overrides,
        params=form.given(params),
        resume=resume,
        branch_from=form.given(branch_from),
        sweep=form.given(sweep),
        run_root=run_root or environment("FEDX_RUN_ROOT") or "runs",
        data_root=data_root or environment("FEDX_DATA_ROOT"),
        store=store or environment("FEDX_STORE"),
    )
    if flow_run.run_count > 1:
        request = again.go_on(request, flow_run.tags)
        children.cancel_left_over(flow_run.id)
    order = settle(request)
    with get_client(sync_client=True) as client:
        tags = {*flow_run.tags, again.tag_of(order.run)}
        client.update_flow_run(flow_run.id, name=f"fedx {order.run}", tags=sorted(tags))
    page = places.prefect_page(str(flow_run.id))
    display = Announced(live.display(show, get_run_logger().info, page), order.folder)
    # A worker of Prefect's may be killed with this process in it.
    with logs.shown(), lifeline.held():
        try:
            return carry_out(
                order,
                run_at=run_at,
                workers=workers or default_workers(),
                clients_per_task=clients_per_task,
                display=display,
                tracker=tracking.tracker(track, display.warn, display.mention),
                prefect_run=str(flow_run.id),
            )
        except KeyboardInterrupt:
            if not display.cancelled:
                raise
            return Cancelled(message=f"go on with: fedx resume {order.run}")
