"""``fedx run`` and ``fedx resume``: the flow on Prefect, or the same in this process."""

import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedx_core import strict_json
from flows import completion
from flows.choices import Preset, RunAt, Show, Track
from flows.commands.options import (
    AsJson,
    At,
    ClientsPerTask,
    DataRoot,
    Engine,
    Params,
    RunName,
    RunRoot,
    Settings,
    Store,
    TrackWith,
    Workers,
    setting,
)

if TYPE_CHECKING:
    from flows.experiment import Order, Request


def run(
    run: Annotated[
        str | None, typer.Option(help="Name; made up from the settings if not given.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A key of datasets in params.yaml.", autocompletion=completion.datasets),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Such as resnet6 or resnet18.", autocompletion=completion.models),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Such as fedavg or fedx.", autocompletion=completion.methods)
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Settings that are shipped for --method; other options go over them."),
    ] = None,
    relevance: Annotated[
        str | None,
        typer.Option(
            help="Criterion of pruning, such as lrp or random.",
            autocompletion=completion.relevance,
        ),
    ] = None,
    pruning_rate: Annotated[
        float | None, typer.Option(help="Share of each layer's units that go, in [0, 1).")
    ] = None,
    warmup_rounds: Annotated[
        int | None, typer.Option(help="Completed rounds before the pruning event.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Root of all random draws.")] = None,
    settings: Settings = None,
    branch_from: Annotated[
        str | None,
        typer.Option(metavar="RUN@ROUND", help="Share another run's rounds up to that one."),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="What the run is one of; MLflow shows these below one run.")
    ] = None,
    params: Params = None,
    run_at: At = None,
    workers: Workers = None,
    clients_per_task: ClientsPerTask = None,
    run_root: RunRoot = "runs",
    data_root: DataRoot = None,
    store: Store = None,
    engine: Engine = True,
    track: TrackWith = "mlflow",
    as_json: AsJson = False,
) -> None:
    """Run a federation: train at clients, aggregate, explain, prune, evaluate.

    Settings come from params.yaml; options go before it. Results are in runs/NAME: results/,
    model.safetensors, config.yaml.

        fedx run --dataset synthetic --rounds 4 --warmup-rounds 2
        fedx run --method fedavg --set federation.participation=0.5
        fedx run --method feddst --preset fedx_protocol
        fedx run --run-at work-pools --store s3://fedx/runs
    """
    from flows.experiment import Request

    request = Request(
        run=run,
        dataset=dataset,
        model=model,
        method=method,
        preset=preset,
        relevance=relevance,
        pruning_rate=pruning_rate,
        warmup_rounds=warmup_rounds,
        rounds=rounds,
        seed=seed,
        overrides=dict(setting(text) for text in settings or []),
        params=params,
        run_root=run_root,
        data_root=data_root,
        store=store,
        branch_from=branch_from,
        sweep=sweep,
    )
    start(request, run_at, workers, clients_per_task, engine=engine, track=track, as_json=as_json)


def resume(
    run: RunName,
    rounds: Annotated[int | None, typer.Option(help="Rounds in all, to go further.")] = None,
    run_at: At = None,
    workers: Workers = None,
    clients_per_task: ClientsPerTask = None,
    run_root: RunRoot = "runs",
    data_root: DataRoot = None,
    store: Store = None,
    engine: Engine = True,
    track: TrackWith = "mlflow",
    as_json: AsJson = False,
) -> None:
    """Go on with a run after its last committed round, to the same bytes.

    Settings are those of its first start; only the number of rounds may grow, so that a run which
    has ended goes on.

        fedx resume fedx-lrp-q0.5-synthetic-s1
        fedx resume base --rounds 40
    """
    from flows.experiment import Request

    request = Request(
        run=run, rounds=rounds, run_root=run_root, data_root=data_root, store=store, resume=True
    )
    start(request, run_at, workers, clients_per_task, engine=engine, track=track, as_json=as_json)


def start(
    request: "Request",
    run_at: RunAt | None,
    workers: int | None,
    clients_per_task: int | None = None,
    *,
    engine: bool,
    track: Track,
    as_json: bool,
) -> None:
    """Carry a request out, and show it."""
    if not engine and run_at not in (None, "here", "sites"):
        raise typer.BadParameter(
            f"--run-at {run_at} is carried by Prefect; leave --no-engine out, or use here or sites"
        )
    if not engine and clients_per_task is not None:
        raise typer.BadParameter(
            "--clients-per-task is about tasks of Prefect; leave --no-engine out, or the option"
        )
    from fedx_core.errors import RunError
    from flows import surroundings
    from flows.experiment import settle
    from flows.stopping import stopping

    # A resumed run says itself where its store is.
    asked = "" if request.resume else request.store or ""
    if trouble := surroundings.gone(asked, os.environ, engine=engine):
        raise RunError(trouble)
    order = settle(request)

    def said() -> str:
        if not order.folder.about.exists():
            return "stopping; nothing has begun"
        return (
            "stopping after the clients under way (once more stops at once); go on with: "
            f"fedx resume {order.run}"
        )

    try:
        with stopping(said):
            show: Show = "json" if as_json else "terminal"
            if engine:
                _reach_prefect(quietly=as_json)
                how = {"run_at": run_at, "workers": workers, "clients_per_task": clients_per_task}
                found = _on_prefect(order, request, track, show, how)
            else:
                found = _in_process(order, run_at or "here", workers, track, show)
    except BaseException:
        order.folder.give_back()
        raise
    if as_json:
        print(strict_json.dumps({"event": "summary", **found}), flush=True)
    else:
        print(order.folder.path)


def _in_process(
    order: "Order", run_at: RunAt, workers: int | None, track: Track, show: Show
) -> dict[str, Any]:
    from flows import live, tracking
    from flows.experiment import carry_out
    from flows.runtimes import default_workers

    display = live.display(show)
    return carry_out(
        order,
        run_at=run_at,
        workers=workers or default_workers(),
        display=display,
        tracker=tracking.tracker(track, display.warn, display.mention),
    )


def _on_prefect(
    order: "Order", request: "Request", track: Track, show: Show, how: Mapping[str, Any]
) -> dict[str, Any]:
    import dataclasses

    from prefect.exceptions import CancelledRun

    from fedx_core.errors import StoppedError
    from flows import away
    from flows.round_loop import fedx

    asked = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
    asked |= {"run": order.run, "overrides": dict(request.overrides)}
    asked |= {**how, "run_at": how["run_at"] or "threads"}

    def run() -> dict[str, Any]:
        try:
            found = fedx(**asked, track=track, show=show)
        except CancelledRun as error:
            raise StoppedError(
                f"run {order.run!r} was cancelled on Prefect's pages; go on with "
                f"`fedx resume {order.run}`"
            ) from error
        assert isinstance(found, dict)  # a state in its place raises
        return found

    return away.end(run, order.folder, order.settings.federation.rounds)


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

    from fedx_core.errors import RunError
    from flows import own_server, progress

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
