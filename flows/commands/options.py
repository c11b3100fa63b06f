"""Options that several commands share, said once."""

from typing import Annotated, Any

import typer

from flows import completion
from flows.choices import RunAt, Track

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=completion.runs)
]
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
        help="Who trains; threads if not given. work-pools needs the workers of prefect.yaml, "
        "sites those of fedx site admit.",
    ),
]
ClientsPerTask = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Clients that one task trains one after another on threads, processes or dask; "
        "if not given 1, and more where a round without a deadline has over 100 clients, on "
        "processes and dask 20.",
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
JsonObject = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any setting, as training.epochs=1."),
]


def setting(text: str) -> tuple[str, Any]:
    """Read ``PATH=VALUE``; the value is YAML.

    Raises:
        BadParameter: it is not of that form.
    """
    from fedx_core import strict_yaml
    from fedx_core.errors import ConfigError

    path, equals, value = text.partition("=")
    if not equals or not path:
        raise typer.BadParameter(f"{text!r} is not PATH=VALUE, as in training.epochs=1")
    try:
        return path.strip(), strict_yaml.loads(value, f"the value of {path.strip()}")
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
