"""The flow ``fedx-sweep``, deployed as ``fedx-sweep/sweep``: all runs of a grid, some at once."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows.settings import form
from flows.settings.request import SweepRequest


@flow(name="fedx-sweep", persist_result=False)
@form.asking
def fedx_sweep(request: SweepRequest) -> list[dict[str, str]]:
    """Run every cell of a grid as a process beside this one; retried, it goes on.

    Returns ``run``, ``ending`` (finished, skipped) and ``said`` of each run. If runs fail, so does
    the flow run; the others are done, and a retry leaves them as they are.
    """
    from fedx_core.base.errors import RunError
    from flows.sweeps import grid as grids
    from flows.sweeps import sweep

    log = get_run_logger()
    asked = grids.load(Path(request.grid), Path(request.params or "params.yaml"))
    places = sweep.Places(
        run_root=Path(request.run_root),
        data_root=Path(request.data_root or "data"),
        store=request.store,
    )
    found = sweep.jobs(asked, places)
    launch = sweep.Processes(
        sweep=asked.name, places=places, workers=request.workers, track=request.track
    )
    try:
        ends = sweep.carry_out(
            found,
            launch,
            request.jobs,
            lambda end: log.info("%s %s %s", end.run, end.ending, end.said),
        )
    except BaseException:  # cancelled, too
        launch.stop()
        raise
    rows = [{"run": end.run, "ending": end.ending, "said": end.said} for end in ends]
    create_table_artifact(rows, description=f"`fedx compare --grid {request.grid}` compares them")
    if failed := [end for end in ends if end.ending == "failed"]:
        raise RunError(
            f"{len(failed)} of {len(ends)} runs failed, {failed[0].run} first ({failed[0].said}); "
            "mend what they say and retry"
        )
    return rows
