"""Ending a run that goes on elsewhere, so that it can be resumed.

A run of a shell on this machine gets what Ctrl-C gives it: it stops after the clients under way.
One that a worker of Prefect has started, or that is on another machine, is cancelled in Prefect.
"""

import os
import platform
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fedx_core.base.errors import RunError
from flows.runs.run_folder import RunFolder
from flows.watching import watch
from flows.watching.watch import Seen

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

LOOK_SECONDS = 0.2


def stop(folder: RunFolder, patience: float) -> Seen:
    """End a run and wait until it has ended.

    Args:
        folder: of the run.
        patience: seconds to wait.

    Returns:
        How it is then: stopped, or finished where that came first.

    Raises:
        RunError: it is not running, is out of reach, or has not ended in time.
    """
    seen = watch.look(folder)
    if seen.now is None or seen.state != "going":
        raise RunError(_not_running(seen))
    here = seen.now.host == platform.node()
    flow_run = _in_prefect(folder.notes())
    if flow_run is not None and (flow_run.deployment_id is not None or not here):
        _cancel(flow_run.id)
    elif here:
        _interrupt(folder, seen.now.pid)
    else:
        raise RunError(
            f"run {folder.name!r} goes on on {seen.now.host}, as process {seen.now.pid}; stop it "
            "there, or set PREFECT_API_URL to the server that its flow run is on"
        )
    deadline = time.monotonic() + patience
    while (seen := watch.look(folder)).state == "going":
        if time.monotonic() > deadline:
            doing = seen.now.doing if seen.now is not None else "at work"
            raise RunError(
                f"run {folder.name!r} is still at work after {patience:g} s ({doing}); "
                "wait longer with --timeout, or say `fedx stop` again to stop it at once"
            )
        time.sleep(LOOK_SECONDS)
    return seen


def _not_running(seen: Seen) -> str:
    name, done = seen.folder.name, len(seen.reports)
    if seen.state == "finished":
        return f"run {name!r} is not running: it finished after round {done} of {seen.rounds}"
    how = f"it stopped after round {done} of {seen.rounds}" if done else "it has no round yet"
    return f"run {name!r} is not running: {how}; go on with `fedx resume {name}`"


def _interrupt(folder: RunFolder, pid: int) -> None:
    try:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGINT)
    except PermissionError as error:
        raise RunError(
            f"run {folder.name!r} is another user's process {pid}; ask them to stop it"
        ) from error


def _in_prefect(notes: dict[str, Any]) -> "FlowRun | None":
    """Find the flow run; None without a server, or where that does not know it."""
    if not notes.get("prefect_run") or not os.environ.get("PREFECT_API_URL"):
        return None
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(notes["prefect_run"]))
    except (PrefectException, httpx.HTTPError, ValueError):
        return None


def _cancel(flow_run: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelling(message="fedx stop"))
