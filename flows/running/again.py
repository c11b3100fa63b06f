"""A flow run that is tried again goes on with the run that it has begun.

*Retry* on Prefect's pages gives a flow run that failed, crashed or was killed to a worker once
more, with the parameters of the first time. What it began then is known by a tag of the flow run,
``run:<name>``, which is set before anything else is done in the run's name. Its clients' flow runs
have the same tag.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fedx_core.record.journal import Journal
from fedx_core.store import open_store
from flows.runs import run_folder
from flows.runs.run_folder import RunFolder
from flows.settings.request import Request


def tag_of(run: str) -> str:
    """Return the tag that says which run a flow run belongs to."""
    return f"run:{run}"


def go_on(request: Request, tags: Iterable[str]) -> Request:
    """Ask for the run that an earlier try of the same flow run has begun.

    Args:
        request: of the first try.
        tags: of the flow run; without one of :func:`tag_of` no run was begun.

    Returns:
        The request, under the first try's name; to resume that run if it has a journal.
    """
    run = next((tag.removeprefix(tag_of("")) for tag in tags if tag.startswith(tag_of(""))), None)
    if run is None or request.resume:
        return request
    folder = RunFolder(Path(request.run_root) / run_folder.checked(run))
    store = run_folder.store_of(request.store, folder)
    begun = Journal(open_store(store)).run() is not None
    return replace(request, run=run, resume=begun)
