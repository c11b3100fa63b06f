"""Start a run that was asked for: as a flow on Prefect, or in this process."""

import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from fedx_core.base import strict_json
from flows.settings.request import How, Request

if TYPE_CHECKING:
    from flows.running.experiment import SettledRun


def start(request: Request, how: How, *, engine: bool, as_json: bool) -> None:
    """Carry a request out, and show it.

    Args:
        request: what to run.
        how: who trains, with how many at once, and where numbers go.
        engine: whether as a flow on Prefect.
        as_json: show JSON lines on stdout instead of progress on the terminal.
    """
    if not engine and how.run_at not in (None, "here", "sites"):
        raise typer.BadParameter(
            f"--run-at {how.run_at} is carried by Prefect; leave --no-engine out, or use here or "
            "sites"
        )
    if not engine and how.clients_per_task is not None:
        raise typer.BadParameter(
            "--clients-per-task is about tasks of Prefect; leave --no-engine out, or the option"
        )
    from fedx_core.base.errors import RunError
    from flows.doctor import surroundings
    from flows.ending.stopping import stopping
    from flows.running.experiment import settle

    # A resumed run says itself where its store is.
    asked = "" if request.resume else request.store or ""
    if trouble := surroundings.gone(asked, os.environ, engine=engine):
        raise RunError(trouble)
    settled = settle(request)

    def said() -> str:
        if not settled.folder.about.exists():
            return "stopping; nothing has begun"
        return (
            "stopping after the clients under way (once more stops at once); go on with: "
            f"fedx resume {settled.run}"
        )

    try:
        with stopping(said):
            shown = replace(how, show="json" if as_json else "terminal")
            if engine:
                _reach_prefect(quietly=as_json)
                found = _on_prefect(settled, request, shown)
            else:
                found = _in_process(settled, shown)
    except BaseException:
        settled.folder.give_back()
        raise
    if as_json:
        print(strict_json.dumps({"event": "summary", **found}), flush=True)
    else:
        print(settled.folder.path)


def _in_process(settled: "SettledRun", how: How) -> dict[str, Any]:
    from fedx_core.base import cores
    from flows import tracking
    from flows.running.experiment import carry_out
    from flows.runs import live

    display = live.display(how.show)
    return carry_out(
        settled,
        run_at=how.run_at or "here",
        workers=how.workers or cores.allowed(),
        display=display,
        tracker=tracking.tracker(how.track, display.warn, display.mention),
    )


def _on_prefect(settled: "SettledRun", request: Request, how: How) -> dict[str, Any]:
    from prefect.exceptions import CancelledRun

    from fedx_core.base.errors import StoppedError
    from flows.deployments.round_loop import fedx
    from flows.ending import away

    asked = {**vars(request), "run": settled.run, "overrides": dict(request.overrides)}
    asked |= {**vars(how), "run_at": how.run_at or "threads"}

    def run() -> dict[str, Any]:
        try:
            found = fedx(**asked)
        except CancelledRun as error:
            raise StoppedError(
                f"run {settled.run!r} was cancelled on Prefect's pages; go on with "
                f"`fedx resume {settled.run}`"
            ) from error
        assert isinstance(found, dict)  # a state in its place raises
        return found

    return away.end(run, settled.folder, settled.settings.federation.rounds)


def _reach_prefect(*, quietly: bool) -> None:
    """Find Prefect's server or start one.

    Ctrl-C and a closed terminal reach all processes of a terminal, and must not stop the server
    before it has heard the end.
    """
    # Prefect's own lines would run through ours; its pages have them all the same.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from fedx_core.base.errors import RunError
    from flows.base import progress
    from flows.prefect import own_server

    own_server.protect()
    url = PREFECT_API_URL.value()
    starting = "starting a Prefect server for this run (PREFECT_API_URL names a running one)"
    spared = {signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, spared)
    try:
        with (
            nullcontext() if url or quietly else progress.waiting(starting),
            get_client(sync_client=True) as client,
        ):
            trouble = client.api_healthcheck()
    except RuntimeError as error:
        trouble = error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, spared)
    if trouble is not None:
        raise RunError(
            f"the Prefect server at {url or 'this machine'} does not answer ({trouble}); start it "
            "with `make up`, unset PREFECT_API_URL, or run with --no-engine"
        )
