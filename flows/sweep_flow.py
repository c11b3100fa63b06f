"""The flow ``fedx-sweep``, deployed as ``fedx-sweep/sweep``: all runs of a grid, some at once."""

import os
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows import form
from flows.choices import Track


@flow(name="fedx-sweep", persist_result=False)
def fedx_sweep(
    grid: str = "grid.yaml",
    jobs: form.Count = 1,
    workers: form.Count = 1,
    params: form.Text = "",
    run_root: form.Text = "",
    data_root: form.Text = "",
    store: form.Text = "",
    track: Track = "mlflow",
) -> list[dict[str, str]]:
    """Run every cell of a grid as a process beside this one; retried, it goes on.

    Args:
        grid: File with the grid, see docs/how_to/sweep.md.
        jobs: Runs at once, 1 or more.
        workers: Clients at once in each run, 1 or more.
        params: File with the settings; empty takes params.yaml.
        run_root: Folder of all runs; empty takes FEDX_RUN_ROOT, or runs.
        data_root: Folder of all data sets; empty takes FEDX_DATA_ROOT, or data.
        store: URI that the runs share; empty takes FEDX_STORE, or keeps each in its folder.
        track: Where numbers are copied to; MLflow shows the runs below one parent.

    Returns:
        ``run``, ``ending`` (finished, skipped) and ``said`` of each.

    Raises:
        RunError: runs failed; the others are done, and a retry leaves them as they are.
    """
    from fedx_core.errors import RunError
    from flows import grid as grids
    from flows import sweep

    environment, log = os.environ.get, get_run_logger()
    asked = grids.load(Path(grid), Path(params or "params.yaml"))
    places = sweep.Places(
        run_root=Path(run_root or environment("FEDX_RUN_ROOT") or "runs"),
        data_root=Path(data_root or environment("FEDX_DATA_ROOT") or "data"),
        store=store or environment("FEDX_STORE"),
    )
    found = sweep.jobs(asked, places)
    launch = sweep.Processes(sweep=asked.name, places=places, workers=workers or 1, track=track)
    try:
        ends = sweep.carry_out(
            found,
            launch,
            jobs or 1,
            lambda end: log.info("%s %s %s", end.run, end.ending, end.said),
        )
    except BaseException:  # cancelled, too
        launch.stop()
        raise
    rows = [{"run": end.run, "ending": end.ending, "said": end.said} for end in ends]
    create_table_artifact(rows, description=f"`fedx compare --grid {grid}` compares them")
    if failed := [end for end in ends if end.ending == "failed"]:
        raise RunError(
            f"{len(failed)} of {len(ends)} runs failed, {failed[0].run} first ({failed[0].said}); "
            "mend what they say and retry"
        )
    return rows
