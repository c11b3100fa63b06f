"""The end of a run whose Prefect server has gone away meanwhile.

The rounds went on, and the results are in the run's folder. Prefect tries for a minute or two to
report the end, and fails then; and at the exit it tries seven seconds for each event that it could
not send, of which each task has three.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from fedx_core.base.errors import RunError

if TYPE_CHECKING:
    from flows.runs.run_folder import RunFolder

_gone = threading.Event()
"""Whether a server of this process was away at the end of a run."""


def end(run: Callable[[], dict[str, Any]], folder: "RunFolder", rounds: int) -> dict[str, Any]:
    """Run a flow to its end, which need not be told to a server that is away.

    Args:
        run: the flow.
        folder: of its run.
        rounds: it shall have done.

    Returns:
        What the flow returns, or would have returned.

    Raises:
        RunError: the server was away too early.
    """
    import httpx

    try:
        return run()
    except httpx.TransportError as error:
        _gone.set()
        found = _summary(folder)
        if found.get("rounds") != rounds and not found.get("stopped"):
            raise RunError(
                f"Prefect's server does not answer ({error}); what was committed is kept, so go "
                f"on with `fedx resume {folder.name}` when it is back, or with --no-engine"
            ) from error
        print(
            f"warning: Prefect's server does not answer ({error}); the run is complete, and "
            "Prefect's pages do not show its end",
            file=sys.stderr,
            flush=True,
        )
        return found


def leave(code: int | None) -> NoReturn:
    """Exit, and where a server is away without what Prefect still wants to tell it."""
    if _gone.is_set():
        from flows.ending.stopping import end_children

        end_children()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _summary(folder: "RunFolder") -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder.results / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found
