"""``fedx rollback``: go back to an earlier round of a run."""

from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, RunName, RunRoot, Store


def rollback(
    run: RunName,
    to: Annotated[int, typer.Option(min=0, help="Round to go back to; 0 for the start.")],
    run_root: RunRoot = "runs",
    store: Store = None,
    as_json: JsonObject = False,
) -> None:
    """Go back to an earlier round of a run, from which it can be resumed.

    Nothing is erased: later rounds stay in the run's journal, marked as void. Results then show the
    rounds that are kept, and MLflow gets a new run for these and the rounds that follow.

        fedx rollback base --to 12
        fedx resume base
    """
    from flows.running import going_back
    from flows.running.experiment import settle
    from flows.settings.request import Request

    settled = settle(Request(run=run, run_root=run_root, store=store, resume=True))
    record = going_back.go_back(settled, to)
    if as_json:
        print(strict_json.dumps({"run": run, "to": record.to, "void": record.last - record.to}))
    else:
        print(
            f"{run} stands after round {record.to} again; {record.last - record.to} rounds are "
            f"void. Go on with `fedx resume {run}`"
        )
