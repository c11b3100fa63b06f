"""``fedx stop``: end a run that goes on in another shell or on a worker."""

from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, RunName, RunRoot


def stop(
    run: RunName,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds to wait for its end.")
    ] = 600,
    run_root: RunRoot = "runs",
    as_json: JsonObject = False,
) -> None:
    """Stop a run in another terminal or on a Prefect worker; it can be resumed.

    It stops as with Ctrl-C: after the clients under way, with all committed rounds kept. A second
    `fedx stop` does not wait for those clients.

        fedx stop base
        fedx resume base
    """
    from contextlib import nullcontext

    from flows.base import progress
    from flows.runs import run_folder
    from flows.watching import ending

    folder = run_folder.find(Path(run_root), run)
    words = f"stopping run {run!r} after the clients under way"
    with nullcontext() if as_json else progress.waiting(words):
        seen = ending.stop(folder, timeout)
    done = len(seen.reports)
    if as_json:
        found = {"run": run, "state": seen.state, "rounds": done, "rounds_planned": seen.rounds}
        print(strict_json.dumps(found))
    elif seen.state == "finished":
        print(f"run {run!r} finished meanwhile, after round {done} of {seen.rounds}")
    else:
        print(
            f"run {run!r} stopped after round {done} of {seen.rounds}; go on with "
            f"`fedx resume {run}`"
        )
