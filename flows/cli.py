"""The command ``fedx``: thin over the flows, quick to start, clear when something is wrong.

Slow modules are imported where they are used, so that ``--help`` and mistakes answer at once.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedx_core import __version__
from flows.choices import RunAt, Show, Track

if TYPE_CHECKING:
    from flows.experiment import Order, Request

EXAMPLES = """
A first run, on scenes that are drawn in code:

        fedx data synthetic
        fedx run

Other things to try:

        fedx run --method fedavg --run base         # to compare with
        fedx run --relevance random                 # another criterion
        fedx run --set training.epochs=1 --seed 2   # any setting
        fedx run --branch-from base@10              # share ten rounds
        fedx resume base --rounds 40                # go on, or further
        fedx run --no-engine                        # without Prefect
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)

Params = Annotated[
    str | None, typer.Option(help="File with the settings; params.yaml if not given.")
]
RunRoot = Annotated[str, typer.Option(envvar="FEDX_RUN_ROOT", help="Folder of all runs.")]
DataRoot = Annotated[
    str | None,
    typer.Option(envvar="FEDX_DATA_ROOT", help="Folder of all data sets; data if not given."),
]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="FEDX_STORE",
        help="What runs share, such as s3://bucket/runs; if not given, each keeps its own.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Clients at once on this machine; its cores if not given."),
]
At = Annotated[
    RunAt | None,
    typer.Option(
        help="Who trains; threads if not given. work-pools needs the workers of prefect.yaml.",
    ),
]
Engine = Annotated[
    bool,
    typer.Option(
        "--engine/--no-engine",
        help="Run as a Prefect flow, on the server of PREFECT_API_URL or one that starts with the "
        "run (some 15 s); or in this process alone.",
    ),
]
TrackWith = Annotated[
    Track,
    typer.Option(
        "--track",
        help="Copy numbers to MLflow: MLFLOW_TRACKING_URI, or mlflow.db here.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object a round on stdout, and a last one.")
]


def main() -> None:
    """Run the command; a mistake ends in one line and exit code 1, without a traceback."""
    from fedx_core.errors import FedXError

    try:
        app(prog_name="fedx")
    except FedXError as error:
        _fail(error)


def _fail(error: Exception) -> None:
    sys.stdout.flush()
    print(f"error {getattr(error, 'code', '')}: {error}", file=sys.stderr, flush=True)
    sys.exit(1)


def _version(asked: bool) -> None:
    if asked:
        print(f"fedx {__version__}")
        raise typer.Exit


@app.callback(help=f"Federated learning that explains its model and sends less.\n{EXAMPLES}")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command(name="run")
def run_(
    run: Annotated[
        str | None, typer.Option(help="Name; made up from the settings if not given.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A key of datasets in params.yaml.")] = None,
    model: Annotated[str | None, typer.Option(help="Such as resnet6 or resnet18.")] = None,
    method: Annotated[str | None, typer.Option(help="Such as fedavg or fedx.")] = None,
    relevance: Annotated[
        str | None, typer.Option(help="Criterion of pruning, such as lrp or random.")
    ] = None,
    pruning_rate: Annotated[
        float | None, typer.Option(help="Share of each layer's units that go, in [0, 1).")
    ] = None,
    warmup_rounds: Annotated[
        int | None, typer.Option(help="Completed rounds before the pruning event.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Root of all random draws.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any setting, as training.epochs=1."),
    ] = None,
    branch_from: Annotated[
        str | None,
        typer.Option(metavar="RUN@ROUND", help="Share another run's rounds up to that one."),
    ] = None,
    params: Params = None,
    run_at: At = None,
    workers: Workers = None,
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
        fedx run --run-at work-pools --store s3://fedx/runs
    """
    from flows.experiment import Request

    request = Request(
        run=run,
        dataset=dataset,
        model=model,
        method=method,
        relevance=relevance,
        pruning_rate=pruning_rate,
        warmup_rounds=warmup_rounds,
        rounds=rounds,
        seed=seed,
        overrides=dict(_setting(text) for text in settings or []),
        params=params,
        run_root=run_root,
        data_root=data_root,
        store=store,
        branch_from=branch_from,
    )
    _start(request, run_at, workers, engine=engine, track=track, as_json=as_json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    rounds: Annotated[int | None, typer.Option(help="Rounds in all, to go further.")] = None,
    run_at: At = None,
    workers: Workers = None,
    run_root: RunRoot = "runs",
    data_root: DataRoot = None,
    store: Store = None,
    engine: Engine = True,
    track: TrackWith = "mlflow",
    as_json: AsJson = False,
) -> None:
    """Go on with a run after its last committed round, to the same bytes.

    fedx resume fedx-lrp-q0.5-synthetic-s1
    fedx resume base --rounds 40
    """
    from flows.experiment import Request

    request = Request(
        run=run, rounds=rounds, run_root=run_root, data_root=data_root, store=store, resume=True
    )
    _start(request, run_at, workers, engine=engine, track=track, as_json=as_json)


@app.command()
def gc(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    keep_states: Annotated[
        int | None, typer.Option(min=1, help="States to keep; federation.keep_states if not given.")
    ] = None,
    run_root: RunRoot = "runs",
    store: Store = None,
) -> None:
    """Delete what a run's committed rounds no longer need: payloads and old states.

    A run does this as it goes; this is for what a killed one has left.
    """
    from fedx_core.retention import collect_garbage
    from flows.experiment import Request, settle

    order = settle(Request(run=run, run_root=run_root, store=store, resume=True))
    keep = keep_states or order.settings.federation.keep_states
    collect_garbage(order.setting.place, keep)
    print(f"{run}: payloads of committed rounds are gone, the last {keep} states are kept")


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="A key of datasets in params.yaml.")],
    params: Params = None,
    data_root: DataRoot = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any setting, as datasets.synthetic..."),
    ] = None,
) -> None:
    """Prepare one data set: read it, share it among clients, draw the server's reference set.

    `dvc repro` does the same for all that params.yaml names under `prepare`, and skips what is
    there.

        fedx data synthetic
        fedx data eurosat --set datasets.eurosat.source.limit=5000
    """
    from fedx_core import config
    from fedx_core.errors import ConfigError
    from flows.partition import partition
    from flows.prepare import prepare
    from flows.reference import reference

    overrides = dict(_setting(text) for text in settings or [])
    experiment = config.load(params or "params.yaml", overrides)
    if name not in experiment.datasets:
        raise ConfigError(
            f"no data set {name!r} in {params or 'params.yaml'}; choose one of "
            f"{', '.join(experiment.datasets)}, or describe it there"
        )
    for stage in (prepare, partition, reference):
        print(stage(experiment, name, Path(data_root or "data")))


@app.command()
def reproduce(
    what: Annotated[Literal["table1"], typer.Argument()],
    as_json: AsJson = False,
) -> None:
    """Compute what the paper prints and show both.

    fedx reproduce table1
    """
    from flows import reproduce as paper

    print({"table1": paper.show_table1}[what](as_json))


@app.command()
def doctor(params: Params = None, run_root: RunRoot = "runs", data_root: DataRoot = None) -> None:
    """Check what a run needs, and say what to do about what is missing."""
    from flows import doctor as checks

    found = checks.examine(Path(params or "params.yaml"), Path(run_root), Path(data_root or "data"))
    for check in found:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.what}: {check.found}")
        if not check.ok:
            print(f"      {check.fix}")
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    path, equals, value = text.partition("=")
    if not equals or not path:
        raise typer.BadParameter(f"{text!r} is not PATH=VALUE, as in training.epochs=1")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"the value of {text!r} is not YAML: {error}") from error


def _start(
    request: "Request",
    run_at: RunAt | None,
    workers: int | None,
    *,
    engine: bool,
    track: Track,
    as_json: bool,
) -> None:
    if not engine and run_at not in (None, "here"):
        raise typer.BadParameter(
            f"--run-at {run_at} is carried by Prefect; leave --no-engine out, or use here"
        )
    from flows.experiment import check_data, settle

    order = settle(request)
    try:
        check_data(order)
        if engine:
            _reach_prefect(quietly=as_json)
    except BaseException:
        order.folder.discard_unless_begun(order.setting.place.store)
        raise
    with _interruptible(order.run):
        go = _on_prefect if engine else _in_process
        found = go(order, request, run_at, workers, track, "json" if as_json else "terminal")
    if as_json:
        print(json.dumps({"event": "summary", **found}), flush=True)
    else:
        print(order.folder.path)


def _in_process(
    order: "Order",
    request: "Request",
    run_at: RunAt | None,
    workers: int | None,
    track: Track,
    show: Show,
) -> dict[str, Any]:
    from flows import live, tracking
    from flows.experiment import carry_out
    from flows.runtimes import default_workers

    display = live.display(show)
    return carry_out(
        order,
        run_at="here",
        workers=workers or default_workers(),
        display=display,
        tracker=tracking.tracker(track, display.warn),
    )


def _on_prefect(
    order: "Order",
    request: "Request",
    run_at: RunAt | None,
    workers: int | None,
    track: Track,
    show: Show,
) -> dict[str, Any]:
    import dataclasses

    from flows.round_loop import fedx

    asked = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
    asked |= {"run": order.run, "overrides": dict(request.overrides)}
    found: dict[str, Any] = fedx(
        **asked, run_at=run_at or "threads", workers=workers, track=track, show=show
    )
    return found


def _reach_prefect(*, quietly: bool) -> None:
    """Find Prefect's server or start one, which Ctrl-C must not stop before it heard the end."""
    # Prefect's own lines would run through ours; its pages have them all the same.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from fedx_core.errors import RunError

    url = PREFECT_API_URL.value()
    if not url and not quietly:
        print("starting a Prefect server for this run (PREFECT_API_URL names a running one)",
              file=sys.stderr, flush=True)  # fmt: skip
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            trouble = client.api_healthcheck()
    except RuntimeError as error:
        trouble = error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if trouble is not None:
        raise RunError(
            f"the Prefect server at {url or 'this machine'} does not answer ({trouble}); start it "
            "with `prefect server start`, unset PREFECT_API_URL, or run with --no-engine"
        )


@contextmanager
def _interruptible(run: str) -> Iterator[None]:
    """Stop at Ctrl-C, and say how to go on; a second one does not wait for clients."""
    presses = 0

    def pressed(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            os._exit(130)
        print(
            f"\nstopping after the clients under way (Ctrl-C again stops at once); go on with: "
            f"fedx resume {run}",
            file=sys.stderr,
            flush=True,
        )
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    main()
