"""The flow runs of clients end with the flow run that has started them.

A flow that is let end cancels them itself; after one that was killed its worker calls a hook, and a
flow run that is tried again looks for what the worker, killed as well, could not cancel.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flows.prompt import Away, Prompt

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

PAGE = 200
"""Flow runs that Prefect's server lists at once."""


def cancel_clients(flow: Any, flow_run: "FlowRun", state: Any) -> None:
    """Cancel what is left of a run's clients: a hook for flow runs cancelled or crashed."""
    cancel_left_over(flow_run.id)


def cancel_left_over(parent: "UUID | str") -> None:
    """Cancel what a flow run has started and what has not ended."""
    with Prompt() as ask:
        cancel(ask, under_way(ask, parent))


def under_way(ask: Prompt, parent: "UUID | str") -> list["UUID"]:
    """List the flow runs that a flow run has started and that have not ended; none if unknown."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType

    left = {StateType.CANCELLING, *TERMINAL_STATES}
    wanted = FlowRunFilter.model_validate(
        {"parent_flow_run_id": {"any_": [parent]}, "state": {"type": {"not_any_": sorted(left)}}}
    )
    found: list[UUID] = []
    with suppress(Away):
        while page := ask(
            ask.client.read_flow_runs, flow_run_filter=wanted, offset=len(found), limit=PAGE
        ):
            found += [run.id for run in page]
    return found


def cancel(ask: Prompt, runs: Iterable["UUID"]) -> None:
    """Ask for the end of flow runs, and do not wait for it.

    What can't be cancelled ends by itself; its report is write-once and harms nobody.
    """
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.states import Cancelling

    for run in runs:
        try:
            with suppress(ObjectNotFound, PrefectHTTPStatusError):
                ask(ask.client.set_flow_run_state, run, Cancelling())
        except Away:
            return
