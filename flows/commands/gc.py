"""``fedx gc``: what a killed run has left behind."""

from typing import Annotated

import typer

from fedx_core.base import strict_json
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
    from fedx_core.base import unfinished
    from fedx_core.rounds.retention import collect_garbage
    from flows.running.experiment import settle
    from flows.settings.request import Request

    settled = settle(Request(run=run, run_root=run_root, store=store, resume=True))
    keep = keep_states or settled.settings.federation.keep_states
    collect_garbage(settled.setting.place, keep)
    unfinished.sweep(settled.folder.path)
    if as_json:
        print(strict_json.dumps({"run": run, "states_kept": keep}))
    else:
        print(f"{run}: payloads of committed rounds are gone, the last {keep} states are kept")
