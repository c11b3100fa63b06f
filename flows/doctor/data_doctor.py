"""What `fedx doctor --dataset` looks at: one data set, whether it is prepared or not."""

from pathlib import Path

from fedx_core.base import config
from fedx_core.base.errors import ConfigError, DataError, FedXError
from fedx_core.data.base import DataSet
from fedx_core.images import set_folder, set_manifest
from flows.data import summary
from flows.data.summary import Summary
from flows.doctor.checks import Check


def examine(name: str, params: Path, root: Path) -> tuple[list[Check], Summary | None]:
    """Look at a data set: its source, or what was prepared of it.

    Args:
        name: its key in the settings.
        params: file with the settings.
        root: folder of all data sets.

    Returns:
        What was looked at, and what the set holds; None where it can't be opened.

    Raises:
        ConfigError: the settings can't be used, or have no such data set.
    """
    experiment = config.load(params)
    if name not in experiment.datasets:
        raise ConfigError(
            f"no data set {name!r} in {params}; choose one of {', '.join(experiment.datasets)}, or "
            "describe it there"
        )
    plugin = experiment.datasets[name].source
    again = f"fedx data {name}"
    if not (root / name / "prepared" / set_manifest.MANIFEST).is_file():
        try:
            data_set: DataSet = plugin.build("data")
            held = summary.of_source(name, data_set.found())
        except FedXError as error:
            said = f"{error.code}: {error}"
            return [Check("source", False, said, f"mend it, then {again}")], None
        return [
            Check("source", True, "can be read; its images have not been looked at"),
            Check("prepared", True, f"not yet; {again} does that"),
            *_wrong(held),
        ], held
    try:
        held = summary.of_prepared(name, root / name)
        made_from = set_folder.read_manifest(root / name / "prepared")["settings"].get("source")
    except DataError as error:
        return [Check("prepared", False, f"{error.code}: {error}", again)], None
    same = made_from == config.as_plain(plugin)
    return [
        Check("prepared", True, str(root / name)),
        Check(
            "settings",
            same,
            f"those of {params}" if same else f"{params} says another source than it was made from",
            again,
        ),
        *_files(root / name, again),
        *_wrong(held),
    ], held


def _files(folder: Path, fix: str) -> list[Check]:
    """Compare all arrays at the server with what was written."""
    checks = []
    for part in ("prepared", "reference"):
        if (folder / part / set_manifest.MANIFEST).is_file():
            try:
                set_folder.verify(folder / part)
                checks.append(Check(f"{part} files", True, "as they were written"))
            except DataError as error:
                checks.append(Check(f"{part} files", False, str(error), fix))
    return checks


def _wrong(held: Summary) -> list[Check]:
    """Make a check of each thing that is wrong; its sentence says what to do."""
    return [Check("data", False, sentence) for sentence in held["wrong"]]
