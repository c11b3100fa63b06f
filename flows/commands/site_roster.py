"""``fedx site roster``: whom a run asks, at a coordinator that has no shards."""

from pathlib import Path

from fedx_core.base import strict_json
from flows.commands.options import DataRoot, DataSet, JsonObject, Params
from flows.commands.site_options import CoordinatorHome


def roster(
    dataset: DataSet,
    params: Params = None,
    data_root: DataRoot = None,
    coordinator_home: CoordinatorHome = "sites",
    as_json: JsonObject = False,
) -> None:
    """Make all admitted sites the clients of a data set, without having seen their shards.

    The coordinator has a test set and a reference set of its own. How many images a site may say
    it has stands in `fedx site admit --max-examples`.

        fedx site roster eurosat
    """
    from fedx_core.base import config
    from fedx_core.base.errors import ConfigError
    from fedx_core.sites.registry import Registry
    from flows.sites import roster as rosters

    experiment = config.load(params or "params.yaml")
    if dataset not in experiment.datasets:
        raise ConfigError(config.unknown_data_set(dataset, experiment.datasets))
    registry = Registry(Path(coordinator_home))
    path = rosters.write(experiment, dataset, Path(data_root or "data"), registry)
    names = list(registry.names())
    if as_json:
        print(strict_json.dumps({"dataset": dataset, "clients": names, "file": str(path)}))
    else:
        print(f"{path}: {', '.join(names)}")
