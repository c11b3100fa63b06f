"""``fedx rollback``: go back to an earlier round of a run."""

from typing import Annotated

import typer

from fedx_core import strict_json
from flows.commands.options import JsonObject, RunName, RunRoot, Store


def rollback(
    run: RunName,
    to: Annotated[int, typer.Option(min=0, help="Last round that holds; 0 for the start.")],
    run_root: RunRoot = "runs",
    store: Store = None,
    as_json: JsonObject = False,
) -> None:
    """Let a run go on after one of its earlier rounds, as when a later one went wrong.

    Nothing is erased: the rounds after it stay in the run's journal, void. Results are those of the
    rounds that hold, and MLflow gets a new run for them and what follows.

        fedx rollback base --to 12
        fedx resume base
    """
    from flows import going_back
    from flows.experiment import Request, settle

    order = settle(Request(run=run, run_root=run_root, store=store, resume=True))
    record = going_back.go_back(order, to)
    if as_json:
        print(strict_json.dumps({"run": run, "to": record.to, "void": record.last - record.to}))
    else:
        print(
            f"{run} stands after round {record.to} again; {record.last - record.to} rounds are "
            f"void. Go on with `fedx resume {run}`"
        )
