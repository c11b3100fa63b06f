"""What can be asked of a run, said once: names, help, bounds and choices of every field.

The options of ``fedx run`` are made of it (:mod:`flows.commands.options`), and so is the form on
Prefect's pages (:mod:`flows.settings.form`).
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from flows.settings import completion
from flows.settings.choices import Preset, RunAt, Show, Track

NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is said of a field, wherever it is asked for.

    Args:
        help: what it is, as a phrase.
        left: what is taken where it is left out; empty where that is as in params.yaml, or is the
            field's own default.
        setting: dotted path of the setting that it changes; FedX's core knows its bounds too.
        names: what may be chosen, of a file with settings or of ``params.yaml``.
        least: the least number.
        below: a number that is too large, and the least that is.
        pattern: of the whole text.
        form: what the form on Prefect's pages begins with; None where that is left out.
        options: of the command, where they are not named as the field.
        metavar: how the option's value is written.
        variable: of the environment, which is looked at where nothing is given.
        panel: under which the command's help shows it.
    """

    help: str
    left: str = ""
    setting: str = ""
    names: completion.Names | None = None
    least: int | None = None
    below: int | None = None
    pattern: str | None = None
    form: Any = None
    options: tuple[str, ...] = ()
    metavar: str | None = None
    variable: str | None = None
    panel: str = "The run"


SETTINGS = "Settings, which go over those of params.yaml"
HOW = "How it is run"

PARAMS = Said(help="File with the settings", left="params.yaml", panel=SETTINGS)
RUN_ROOT = Said(help="Folder of all runs", left="runs", variable="FEDX_RUN_ROOT", panel=HOW)
DATA_ROOT = Said(help="Folder of all data sets", left="data", variable="FEDX_DATA_ROOT", panel=HOW)
STORE = Said(
    help="What the server and the clients of all runs share, such as s3://bucket/runs",
    left="each run's own folder",
    variable="FEDX_STORE",
    panel=HOW,
)
WORKERS = Said(
    help="Clients that train at once on this machine", left="its cores", least=1, panel=HOW
)
TRACK = Said(
    help="Where numbers are copied to; mlflow is MLFLOW_TRACKING_URI, or mlflow.db here", panel=HOW
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for. None leaves a setting as it stands in ``params.yaml``."""

    dataset: Annotated[
        str | None,
        Said(
            help="Data set to train on, one of datasets in the settings",
            setting="dataset",
            names=completion.data_sets,
            panel=SETTINGS,
        ),
    ] = None
    model: Annotated[
        str | None,
        Said(
            help="Model that is trained",
            setting="model.name",
            names=completion.models,
            panel=SETTINGS,
        ),
    ] = None
    method: Annotated[
        str | None,
        Said(
            help="Federated method; fedx methods lists them",
            setting="method.name",
            names=completion.methods,
            panel=SETTINGS,
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        Said(
            help="Settings that ship for the method, which must be named too: those of its own "
            "paper, those under FedX's experiment, or few weights in few bits. What else is given "
            "goes over them",
            panel=SETTINGS,
        ),
    ] = None
    relevance: Annotated[
        str | None,
        Said(
            help="Criterion by which units are pruned; only methods that prune units have one",
            setting="method.relevance.name",
            names=completion.criteria,
            panel=SETTINGS,
        ),
    ] = None
    pruning_rate: Annotated[
        float | None,
        Said(
            help="Share of each layer's units that a pruning event removes, in [0, 1)",
            setting="method.pruning_rate",
            least=0,
            below=1,
            panel=SETTINGS,
        ),
    ] = None
    warmup_rounds: Annotated[
        int | None,
        Said(
            help="Completed rounds before the pruning event, 1 or more",
            setting="method.warmup_rounds",
            least=1,
            panel=SETTINGS,
        ),
    ] = None
    rounds: Annotated[
        int | None,
        Said(
            help="Rounds in all, 1 or more; a resumed run may get more than it began with",
            setting="federation.rounds",
            least=1,
            panel=SETTINGS,
        ),
    ] = None
    seed: Annotated[
        int | None, Said(help="Root of all random draws", setting="seed", panel=SETTINGS)
    ] = None
    overrides: Annotated[
        Mapping[str, Any],
        Said(
            help="Any setting by its dotted path, such as training.epochs; these come last",
            options=("--set",),
            metavar="PATH=VALUE",
            panel=SETTINGS,
        ),
    ] = field(default_factory=dict)
    run: Annotated[
        str | None,
        Said(
            help="Name of the run",
            left="made up from the settings, such as fedx-lrp-q0.5-synthetic-s1",
            pattern=NAME,
        ),
    ] = None
    resume: Annotated[bool, Said(help="Go on with this run after its last committed round")] = False
    branch_from: Annotated[
        str | None,
        Said(
            help="Share another run's rounds up to that one instead of training them again",
            pattern=f"{NAME}@[1-9][0-9]*",
            metavar="RUN@ROUND",
        ),
    ] = None
    sweep: Annotated[
        str | None,
        Said(
            help="Sweep that the run belongs to; MLflow shows its runs below one parent",
            pattern=NAME,
        ),
    ] = None
    params: Annotated[str | None, PARAMS] = None
    run_root: Annotated[str, RUN_ROOT] = "runs"
    data_root: Annotated[str | None, DATA_ROOT] = None
    store: Annotated[str | None, STORE] = None


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run is carried out, which changes no number."""

    run_at: Annotated[
        RunAt | None,
        Said(
            help="Who trains: here (this process, no tasks); threads or processes of this machine; "
            "dask (a cluster of this machine, or that of FEDX_DASK_SCHEDULER); work-pools (the "
            "workers of fedx-client/train, or of what FEDX_CLIENT_DEPLOYMENT names); or sites "
            "(institutions that have the data and were admitted by fedx site admit)",
            left="threads",
            form="threads",
            panel=HOW,
        ),
    ] = None
    workers: Annotated[int | None, WORKERS] = None
    clients_per_task: Annotated[
        int | None,
        Said(
            help="Clients that one task trains one after another, on threads, processes or dask",
            left="1, or more where a round without a deadline has over 100 clients, such as 20 on "
            "processes and dask",
            least=1,
            panel=HOW,
        ),
    ] = None
    track: Annotated[Track, TRACK] = "mlflow"
    show: Annotated[
        Show,
        Said(help="Where progress goes: this page's log, a terminal, JSON on stdout, or nowhere"),
    ] = "log"


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What somebody asks of a sweep."""

    grid: Annotated[str, Said(help="File with the grid, see docs/how_to/sweep.md")] = "grid.yaml"
    jobs: Annotated[
        int, Said(help="Runs at once, each a process", options=("--jobs", "-j"), least=1)
    ] = 1
    workers: Annotated[int, Said(help="Clients that train at once in each run", least=1)] = 1
    params: Annotated[str | None, PARAMS] = None
    run_root: Annotated[str, RUN_ROOT] = "runs"
    data_root: Annotated[str | None, DATA_ROOT] = None
    store: Annotated[str | None, STORE] = None
    track: Annotated[Track, TRACK] = "mlflow"


@dataclass(frozen=True)
class Asked:
    """One field of a request.

    Args:
        name: of the field.
        type: without what is said of it.
        default: its value where nothing is given; a fresh one each time.
        said: of it.
    """

    name: str
    type: Any
    default: Any
    said: Said


def fields(kind: type[Any]) -> Iterator[Asked]:
    """List the fields of a request in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for each in dataclasses.fields(kind):
        plain, said = typing.get_args(hints[each.name])
        default = each.default_factory() if each.default is dataclasses.MISSING else each.default  # type: ignore[operator] # one of the two is there
        yield Asked(each.name, plain, default, said)


def overrides_of(request: Request) -> dict[str, Any]:
    """Name the settings that a request changes, by dotted path; those by path come last."""
    named = {
        each.said.setting: getattr(request, each.name)
        for each in fields(Request)
        if each.said.setting
    }
    return {k: v for k, v in named.items() if v is not None} | dict(request.overrides)
