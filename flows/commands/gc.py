"""``fedx gc``: what a killed run has left behind."""

from typing import Annotated

import typer

from fedx_core import strict_json
from flows.commands.options import JsonObject, RunName, RunRoot, Store


def gc(
    run: RunName,
    keep_states: Annotated[
        int | None, typer.Option(min=1, help="States to keep; federation.keep_states if not given.")
    ] = None,
    run_root: RunRoot = "runs",
    store: Store = None,
    as_json: JsonObject = False,
) -> None:
    """Delete what a run's committed rounds no longer need: payloads and old states.

    A run does this as it goes; this is for what a killed one has left, half-written files as well.
    """
    from fedx_core import unfinished
    from fedx_core.retention import collect_garbage
    from flows.experiment import Request, settle

    order = settle(Request(run=run, run_root=run_root, store=store, resume=True))
    keep = keep_states or order.settings.federation.keep_states
    collect_garbage(order.setting.place, keep)
    unfinished.sweep(order.folder.path)
    if as_json:
        print(strict_json.dumps({"run": run, "states_kept": keep}))
    else:
        print(f"{run}: payloads of committed rounds are gone, the last {keep} states are kept")
