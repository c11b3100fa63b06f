"""Options: those of requests, made of what is said of their fields, and what commands share."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from flows.settings import completion, request
from flows.settings.choices import Track
from flows.settings.request import DATA_ROOT, PARAMS, RUN_ROOT, STORE, TRACK, Asked, Said


def option(said: Said, *, default: Any = None, panel: str | None = None) -> Any:
    """Make an option of what is said of a field.

    Args:
        said: of the field. Bounds of settings are left to the core, which says what to do.
        default: what the command takes where nothing is given.
        panel: of the help; None shows it among the options.
    """
    return typer.Option(
        *said.options,
        help=f"{said.help}.",
        show_default=said.left if said.left and default is None else True,
        metavar=said.metavar,
        envvar=said.variable,
        min=None if said.setting else said.least,
        autocompletion=completion.offering(said.names) if said.names else None,
        rich_help_panel=panel,
    )


class Only:
    """Marks a request of which a command takes some fields; the others keep their defaults."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Without:
    """Marks a request of which a command takes all fields but some."""

    def __init__(self, *names: str) -> None:
        self.names = names


def taking_requests(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of each request among its parameters, the request's options."""
    hints = typing.get_type_hints(command, include_extras=True)
    requests: dict[str, tuple[Any, list[Asked]]] = {}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        kind, *marks = typing.get_args(hint) or (hint,)
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(annotation=hint))
            continue
        taken = [x for x in request.fields(typing.cast(Any, kind)) if _is_taken(x.name, marks)]
        requests[parameter.name] = (kind, taken)
        parameters += [_parameter(each) for each in taken]

    def called(**values: Any) -> None:
        made = {
            name: kind(**{each.name: _read(each, values.pop(each.name)) for each in taken})
            for name, (kind, taken) in requests.items()
        }
        command(**values, **made)

    called.__name__, called.__qualname__ = command.__name__, command.__qualname__
    called.__doc__, called.__module__ = command.__doc__, command.__module__
    in_order = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    vars(called)["__signature__"] = inspect.Signature(in_order)
    called.__annotations__ = {p.name: p.annotation for p in in_order}
    return called


def _is_taken(name: str, marks: Sequence[Any]) -> bool:
    only = [mark.names for mark in marks if isinstance(mark, Only)]
    without = [mark.names for mark in marks if isinstance(mark, Without)]
    return all(name in names for names in only) and not any(name in names for names in without)


def _parameter(asked: Asked) -> inspect.Parameter:
    made = option(asked.said, default=asked.default or None, panel=asked.said.panel)
    kind, default = asked.type, asked.default
    if isinstance(default, Mapping):
        kind, default = list[str] | None, None
    return inspect.Parameter(
        asked.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, made],
    )


def _read(asked: Asked, value: Any) -> Any:
    if isinstance(asked.default, Mapping):
        return dict(setting(text) for text in value or [])
    return value


RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=completion.runs)
]
Params = Annotated[str | None, option(PARAMS)]
RunRoot = Annotated[str, option(RUN_ROOT, default="runs")]
DataRoot = Annotated[str | None, option(DATA_ROOT)]
Store = Annotated[str | None, option(STORE)]
TrackWith = Annotated[Track, option(TRACK, default="mlflow")]
Engine = Annotated[
    bool,
    typer.Option(
        "--engine/--no-engine",
        help="Run as a Prefect flow, on the server of PREFECT_API_URL or one that starts with the "
        "run (some 15 seconds); or in this process alone, where --run-at is here or sites.",
        rich_help_panel=request.HOW,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object for each round on stdout, and a last one.",
        rich_help_panel=request.HOW,
    ),
]
JsonObject = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DataSet = Annotated[
    str,
    typer.Argument(
        help="A key of datasets in params.yaml.",
        autocompletion=completion.offering(completion.data_sets),
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any setting, as training.epochs=1."),
]


def setting(text: str) -> tuple[str, Any]:
    """Read ``PATH=VALUE``; the value is YAML.

    Raises:
        BadParameter: it is not of that form.
    """
    from fedx_core.base import strict_yaml
    from fedx_core.base.errors import ConfigError

    try:
        return strict_yaml.setting(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
