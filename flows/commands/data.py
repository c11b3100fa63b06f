"""``fedx data``: prepare one data set."""

from pathlib import Path
from typing import Annotated

import typer

from fedx_core import strict_json
from flows import completion
from flows.commands.options import DataRoot, JsonObject, Params, Settings, setting


def data(
    name: Annotated[
        str,
        typer.Argument(
            help="A key of datasets in params.yaml.", autocompletion=completion.datasets
        ),
    ],
    params: Params = None,
    data_root: DataRoot = None,
    settings: Settings = None,
    as_json: JsonObject = False,
) -> None:
    """Prepare one data set: read it, share it among clients, draw the server's reference set.

    `dvc repro prepare partition reference` does the same for all that params.yaml names under
    `prepare`, and skips what is there.

        fedx data synthetic
        fedx data eurosat --set datasets.eurosat.source.limit=5000
    """
    from fedx_core import config
    from fedx_core.errors import ConfigError
    from flows.partition import partition
    from flows.prepare import prepare
    from flows.reference import reference

    overrides = dict(setting(text) for text in settings or [])
    experiment = config.load(params or "params.yaml", overrides)
    if name not in experiment.datasets:
        raise ConfigError(config.unknown_data_set(name, experiment.datasets))
    made = {}
    for stage in (prepare, partition, reference):
        folder = stage(experiment, name, Path(data_root or "data"))
        made[folder.name] = str(folder)
        if not as_json:
            print(folder)
    if as_json:
        print(strict_json.dumps({"dataset": name, **made}))
