"""Stage ``prepare``: a raw data set becomes arrays, ``data/<name>/prepared``.

python -m flows.data.prepare NAME [--params params.yaml] [--data-root data]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, FedXError
from fedx_core.data.base import DataSet
from fedx_core.images import set_folder
from flows.base import progress
from flows.data.tally import Tally

Stage = Callable[[ExperimentConfig, str, Path], Path]


def prepare(experiment: ExperimentConfig, name: str, root: Path) -> Path:
    """Read a data set's images and write them as arrays with the parts train, validation, test.

    Args:
        experiment: the settings; only ``datasets.<name>.source`` is used.
        name: a key of ``datasets``.
        root: the folder of all data sets.

    Returns:
        The folder that was written, ``<root>/<name>/prepared``.

    Raises:
        SourceMissingError: the raw data is not there.
        DataError: it can't be used.
        StoreError: the result can't be written.
    """
    plugin = experiment.datasets[name].source
    data_set: DataSet = plugin.build("data")
    source = data_set.found()
    folder = root / name / "prepared"
    tally = Tally()
    streams = {part: tally.over(part, s) for part, s in data_set.streams(source).items()}
    with progress.step(f"{name}: prepare", sum(map(len, streams.values()))) as counted:
        set_folder.write(
            folder,
            source.description,
            {part: counted(stream) for part, stream in streams.items()},
            lambda: {
                "source": config.as_plain(plugin),
                "notes": source.notes,
                "pixels": tally.as_plain(source.description.bands),
            },
        )
    return folder


def run(stage: Stage, arguments: Sequence[str] | None = None) -> int:
    """Run a stage from the command line; errors go to stderr, with exit code 1."""
    parser = argparse.ArgumentParser(description=(stage.__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a data set of params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args(arguments)
    try:
        experiment = config.load(options.params)
        if options.name not in experiment.datasets:
            raise ConfigError(config.unknown_data_set(options.name, experiment.datasets))
        print(stage(experiment, options.name, options.data_root))
    except FedXError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(prepare))
