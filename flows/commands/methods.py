"""``fedx methods``: what there is, which settings are shipped for it, and what is tuned."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedx_core import strict_json
from flows import completion
from flows.commands.options import JsonObject


def methods(
    method: Annotated[
        str | None,
        typer.Argument(
            help="Show its presets; all methods in a line each if not given.",
            autocompletion=completion.methods,
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
            autocompletion=completion.datasets,
        ),
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """List the methods, or show one's presets and what of it is tuned.

    `paper` has the settings of the method's own paper. `fedx_protocol` has those under FedX's
    experiment: the same for all but for what is the method's own. All get as many trials.

        fedx methods
        fedx methods feddst
        fedx methods feddst --tuning feddst.yaml
    """
    from flows import preset, run_folder

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
        print(strict_json.dumps({"method": method, **vars(found), "trials": found.trials}))
        return
    print(_summary(method))
    print(f"\n{found.source}")
    _show("paper", found.paper)
    _show("fedx_protocol", found.fedx_protocol)
    _show(f"tuning, {found.trials} trials", found.tuning)


def _list(*, as_json: bool) -> None:
    from fedx_core import plugins
    from flows import preset

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


def _summary(method: str) -> str:
    from fedx_core import plugins

    return (inspect.getdoc(plugins.load("methods", method)) or "").splitlines()[0]


def _show(title: str, values: Mapping[str, Any]) -> None:
    print(f"\n{title}:")
    for path, value in values.items():
        print(f"  {path}: {strict_json.dumps(value)}")
    if not values:
        print("  none")
