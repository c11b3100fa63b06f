"""``fedx data``: prepare one data set."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import DataRoot, DataSet, JsonObject, Params, Settings, setting


def data(
    name: DataSet,
    params: Params = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    with_preview: Annotated[
        bool,
        typer.Option("--preview", help="Also write a contact sheet of each class, as PNG."),
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Prepare one data set: read it, divide it among clients, draw the server's reference set.

    `dvc repro prepare partition reference` does the same for all that params.yaml names under
    `prepare`, and skips what is there. Ends with what the data set holds: images by class and
    part, clients, the range of each band, what was ignored or drawn, and what is wrong (!).

        fedx data synthetic
        fedx data eurosat --set datasets.eurosat.source.limit=5000
        fedx data eurosat --preview
    """
    from fedx_core.base import config
    from fedx_core.base.errors import ConfigError
    from flows.base import progress
    from flows.data import describe, summary
    from flows.data.partition import partition
    from flows.data.prepare import prepare
    from flows.data.reference import reference
    from flows.report.preview import preview

    overrides = dict(setting(text) for text in settings or [])
    experiment = config.load(params or "params.yaml", overrides)
    if name not in experiment.datasets:
        raise ConfigError(config.unknown_data_set(name, experiment.datasets))
    made = {}
    root = Path(data_root or "data")
    for stage in (prepare, partition, reference):
        with progress.silent() if as_json else nullcontext():
            folder = stage(experiment, name, root)
        made[folder.name] = str(folder)
        if not as_json:
            print(folder)
    if with_preview:
        made["preview"] = str(preview(name, root))
        if not as_json:
            print(made["preview"])
    found = summary.of_prepared(name, root / name)
    if as_json:
        print(strict_json.dumps({"dataset": name, **made, "summary": found}))
    else:
        print()
        print("\n".join(describe.lines(found)))
