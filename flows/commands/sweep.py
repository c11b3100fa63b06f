"""``fedx sweep``: many runs from one grid; what came of them is shown over seeds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedx_core.base import strict_json
from flows.base.exits import FAILED
from flows.commands.options import JsonObject, Without, taking_requests
from flows.settings.request import SweepRequest

if TYPE_CHECKING:
    from flows.sweeps.grid import Grid
    from flows.sweeps.sweep import Job, Outcome, Processes


@taking_requests
def sweep(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="File with the grid, in YAML.")],
    request: Annotated[SweepRequest, Without("grid")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, say what would run, and run nothing.")
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Run every cell of a grid of settings, and share the first rounds of those that are alike.

    What is finished is left, what has begun goes on: stopped or killed, start it again. A run that
    fails is named, and the others go on; the command then ends with 1.

        fedx sweep grid.yaml --dry-run
        fedx sweep grid.yaml --jobs 4
        fedx compare --grid grid.yaml
    """
    from flows.sweeps import grid as grids
    from flows.sweeps import sweep as sweeping

    asked = grids.load(grid, Path(request.params or "params.yaml"))
    places = sweeping.Places(
        run_root=Path(request.run_root),
        data_root=Path(request.data_root or "data"),
        store=request.store,
    )
    found = sweeping.jobs(asked, places)
    if dry_run:
        _say_plan(asked, found, as_json=as_json)
        return
    launch = sweeping.Processes(
        sweep=asked.name, places=places, workers=request.workers, track=request.track
    )
    ends, failed = carried_out(found, launch, request.jobs)
    if as_json:
        print(strict_json.dumps({"sweep": asked.name, "runs": [vars(outcome) for outcome in ends]}))
    elif not failed:
        print(f"fedx compare --grid {grid}")
    if failed:
        raise typer.Exit(FAILED)


def carried_out(
    found: Sequence["Job"], launch: "Processes", jobs: int
) -> tuple[list["Outcome"], int]:
    """Run what is not finished, and say on stderr what became of each.

    Returns:
        What became of each, and how many failed.
    """
    from flows.ending.stopping import stopping
    from flows.sweeps import sweep as sweeping

    told = "stopping after the clients under way; start the sweep again to go on"
    with stopping(lambda: told, launch.stop):
        ends = sweeping.carry_out(found, launch, jobs, _teller(len(found)))
    failed = sum(outcome.ending == "failed" for outcome in ends)
    if failed:
        print(
            f"{failed} of {len(ends)} runs failed; mend what they say and start again, which "
            "leaves the others as they are",
            file=sys.stderr,
        )
    return ends, failed


def _say_plan(grid: "Grid", found: Sequence["Job"], *, as_json: bool) -> None:
    rows = [
        {
            "run": job.step.run,
            "rounds": _to_do(job),
            "branches_from": job.step.origin,
            "standing": job.standing,
        }
        for job in found
    ]
    to_do = sum(_to_do(job) for job in found if job.standing != "finished")
    alone = sum(cell.settings.federation.rounds for cell in grid.cells)
    about = {"cells": len(grid.cells), "rounds_to_do": to_do, "rounds_without_sharing": alone}
    if as_json:
        print(strict_json.dumps({"sweep": grid.name, **about, "runs": rows}))
        return
    width = max(len(job.step.run) for job in found)
    for row in rows:
        origin = f" after {row['branches_from']}" if row["branches_from"] else ""
        print(f"{row['run']:{width}}  {row['standing']:8}  {row['rounds']} rounds{origin}")
    print(f"{len(grid.cells)} cells; at most {to_do} rounds to do, {alone} if none were shared")


def _to_do(job: "Job") -> int:
    """Rounds of its own."""
    shared = int(job.step.origin.rpartition("@")[2] or 0)
    return job.step.settings.federation.rounds - shared


def _teller(total: int) -> Any:
    ended = 0

    def tell(outcome: "Outcome") -> None:
        nonlocal ended
        ended += 1
        said = f": {outcome.said}" if outcome.said else ""
        print(f"{ended}/{total} {outcome.run} {outcome.ending}{said}", file=sys.stderr, flush=True)

    return tell
