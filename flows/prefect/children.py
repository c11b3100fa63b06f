"""The flow runs of clients end with the flow run that has started them.

A flow that is let end cancels them itself; after one that was killed its worker calls a hook, and a
flow run that is tried again looks for what the worker, killed as well, could not cancel.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flows.prefect.prompt import Away, Prompt

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

_PAGE = 200
"""Flow runs that Prefect's server lists at once."""


def cancel_clients(flow: Any, flow_run: "FlowRun", state: Any) -> None:
    """Cancel what is left of a run's clients: a hook for flow runs cancelled or crashed."""
    cancel_left_over(flow_run.id)


def cancel_left_over(parent: "UUID | str") -> None:
    """Cancel what a flow run has started and what has not ended."""
    with Prompt() as ask, suppress(Away):
        _cancel(ask, _pages(ask, {"parent_flow_run_id": {"any_": [parent]}}))


def cancel(ask: Prompt, ids: Iterable["UUID"]) -> None:
    """Ask for the end of flow runs, and do not wait for it.

    What can't be cancelled ends by itself; its report is write-once and harms nobody. A run that
    was just being started never begins, and shows as Cancelling until Prefect's server tires of it
    after five minutes.
    """
    with suppress(Away):
        _cancel(ask, read(ask, list(ids)))


def read(ask: Prompt, ids: Sequence["UUID"]) -> list["FlowRun"]:
    """Read flow runs.

    Raises:
        Away: Prefect's server does not answer.
    """
    parts = (ids[at : at + _PAGE] for at in range(0, len(ids), _PAGE))
    return [run for some in parts for run in _pages(ask, {"id": {"any_": some}})]


def _pages(ask: Prompt, wanted: Mapping[str, Any]) -> list["FlowRun"]:
    from prefect.client.schemas.filters import FlowRunFilter

    chosen = FlowRunFilter.model_validate(wanted)
    found: list[FlowRun] = []
    while True:
        page = ask(
            ask.client.read_flow_runs, flow_run_filter=chosen, offset=len(found), limit=_PAGE
        )
        found += page
        if len(page) < _PAGE:
            return found


def _cancel(ask: Prompt, runs: Iterable["FlowRun"]) -> None:
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.states import Cancelling

    for run in runs:
        if run.state is None or not (run.state.is_final() or run.state.is_cancelling()):
            with suppress(ObjectNotFound, PrefectHTTPStatusError):
                ask(ask.client.set_flow_run_state, run.id, Cancelling())
