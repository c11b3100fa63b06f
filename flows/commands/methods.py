"""``fedx methods``: what there is, its parts, the settings shipped for it, and what is tuned."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject
from flows.settings import completion


def methods(
    method: Annotated[
        str | None,
        typer.Argument(
            help="Show its parts and presets; all methods in a line each if not given.",
            autocompletion=completion.offering(completion.methods),
        ),
    ] = None,
    tuning: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the grid of the method's trials, for fedx sweep."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set of the trials; that of params.yaml if not given.",
            autocompletion=completion.offering(completion.data_sets),
        ),
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """List the methods, or show one method's parts and presets and what is tuned.

    A method is made of four parts. Settings may put another plug-in in the place of one, such as
    `--set method.server.name=fedadam`; parts that do not go together are refused before a run.

    `paper` has the settings of the method's own paper. `fedx_protocol` has those of FedX's
    experiment, equal for all methods except for what is the method's own. `fewer_bytes` has few
    weights in few bits. All methods get the same number of trials.

        fedx methods
        fedx methods feddst
        fedx methods feddst --tuning feddst.yaml
    """
    from flows.runs import run_folder
    from flows.settings import preset

    if method is None:
        if tuning is not None:
            raise typer.BadParameter("--tuning is of one method; name it")
        _list(as_json=as_json)
        return
    found = preset.of(method)
    if tuning is not None:
        run_folder.write_yaml(tuning, preset.tuning_grid(method, dataset))
        print(strict_json.dumps({"grid": str(tuning)}) if as_json else f"fedx sweep {tuning}")
        return
    if as_json:
        about = {"method": method, "parts": _parts(method, found.fedx_protocol)}
        print(strict_json.dumps({**about, **vars(found), "trials": found.trials}))
        return
    print(_summary(method))
    print(f"\n{found.source}")
    print("\nparts, as in --set method.server.name=fedadam:")
    for part, about in _parts(method, found.fedx_protocol).items():
        others = f", or {', '.join(about['others'])}" if about["others"] else ""
        print(
            f"  {part}: {about['is']}{others}" + (f" ({about['fixed']})" if about["fixed"] else "")
        )
    _show("paper", found.paper)
    _show("fedx_protocol", found.fedx_protocol)
    _show("fewer_bytes", found.fewer_bytes)
    _show(f"tuning, {found.trials} trials", found.tuning)


def _list(*, as_json: bool) -> None:
    from fedx_core.base import plugins
    from flows.settings import preset

    rows = [
        {"method": name, "summary": _summary(name), "trials": preset.of(name).trials}
        for name in plugins.names("methods")
    ]
    if as_json:
        print(strict_json.dumps({"methods": rows}))
        return
    width = max(len(str(row["method"])) for row in rows)
    for row in rows:
        print(f"{row['method']:{width}}  {row['summary']}")


def _parts(method: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Say what a method is made of, and what may take the place of each part.

    Args:
        method: its name.
        settings: by dotted path, some under which it can be built.
    """
    from fedx_core.base import plugins
    from fedx_core.methods.base import PACKAGES, name_of

    prefix = "method."
    params = {p.removeprefix(prefix): v for p, v in settings.items() if p.startswith(prefix)}
    built = plugins.build("methods", method, params)
    parts = built.parts
    found = {}
    for part, package in PACKAGES.items():
        own = name_of(getattr(parts, part))
        others = [
            name
            for name in plugins.names(package)
            if name != own and not getattr(plugins.load(package, name), "needs", "")
        ]
        if part == "exchange" and parts.pruner.prunes:
            others = [name for name in others if not plugins.load(package, name).dense]
        reason = built.fixed(part)
        found[part] = {"is": own, "others": [] if reason else others, "fixed": reason}
    return found


def _summary(method: str) -> str:
    from fedx_core.base import plugins

    return (inspect.getdoc(plugins.load("methods", method)) or "").splitlines()[0]


def _show(title: str, values: Mapping[str, Any]) -> None:
    print(f"\n{title}:")
    for path, value in values.items():
        print(f"  {path}: {strict_json.dumps(value)}")
    if not values:
        print("  none")
