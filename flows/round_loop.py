"""The flow ``fedx``, deployed as ``fedx/round-loop``: a whole federated run."""

import os
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows import live, tracking
from flows.choices import RunAt, Show, Track
from flows.experiment import Request, carry_out, settle
from flows.runtimes import default_workers


@flow(name="fedx", persist_result=False)
def fedx(
    run: str | None = None,
    dataset: str | None = None,
    model: str | None = None,
    method: str | None = None,
    relevance: str | None = None,
    pruning_rate: float | None = None,
    warmup_rounds: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    overrides: dict[str, Any] | None = None,
    params: str | None = None,
    resume: bool = False,
    branch_from: str | None = None,
    sweep: str | None = None,
    run_at: RunAt = "threads",
    workers: int | None = None,
    run_root: str | None = None,
    data_root: str | None = None,
    store: str | None = None,
    track: Track = "mlflow",
    show: Show = "log",
) -> dict[str, Any]:
    """Run one federated experiment and keep its results in ``runs/<run>``.

    Everything left empty is as ``params.yaml`` has it.

    Args:
        run: name of the run; empty makes one up, such as fedx-lrp-q0.5-synthetic-s1.
        dataset: a key of ``datasets`` in ``params.yaml``, such as eurosat.
        model: an entry of the model catalogue, such as resnet18.
        method: fedavg, fedx, ... (a file of ``fedx_core/methods``).
        relevance: lrp, random, ... (a file of ``fedx_core/relevance``).
        pruning_rate: share of each layer's units removed by the pruning event, in [0, 1).
        warmup_rounds: completed rounds before the pruning event.
        rounds: rounds in all; on ``resume`` it may be raised.
        seed: root of all random draws.
        overrides: other settings by dotted path, such as {"training.epochs": 1}; they come last.
        params: file with the settings; empty takes params.yaml.
        resume: go on with ``run`` after its last committed round.
        branch_from: RUN@ROUND, whose rounds up to that one are shared instead of run again.
        sweep: what the run is one of; MLflow shows such runs below one.
        run_at: who trains: here (no tasks), threads, processes, or work-pools (the workers of
            fedx-client/train).
        workers: clients at once on this machine; empty takes its cores.
        run_root: folder of all runs; empty takes FEDX_RUN_ROOT, or ``runs``.
        data_root: folder of all data sets; empty takes FEDX_DATA_ROOT, or ``data``.
        store: URI that the runs share, such as s3://fedx/runs; empty takes FEDX_STORE, or keeps
            the store in the run's folder.
        track: mlflow, or nothing.
        show: where progress goes: log, terminal, json, nothing.

    Returns:
        What ``results/summary.json`` says.
    """
    environment = os.environ.get
    request = Request(
        run=run,
        dataset=dataset,
        model=model,
        method=method,
        relevance=relevance,
        pruning_rate=pruning_rate,
        warmup_rounds=warmup_rounds,
        rounds=rounds,
        seed=seed,
        overrides=overrides or {},
        params=params,
        resume=resume,
        branch_from=branch_from,
        sweep=sweep,
        run_root=run_root or environment("FEDX_RUN_ROOT") or "runs",
        data_root=data_root or environment("FEDX_DATA_ROOT"),
        store=store or environment("FEDX_STORE"),
    )
    order = settle(request)
    display = live.display(show, get_run_logger().info)
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=f"fedx {order.run}")
    return carry_out(
        order,
        run_at=run_at,
        workers=workers or default_workers(),
        display=display,
        tracker=tracking.tracker(track, display.warn, display.mention),
        prefect_run=str(flow_run.id),
    )
