"""Where a run finds its data, and what of it the server sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedx_core.base import config
from fedx_core.base.config import DatasetConfig, ExperimentConfig
from fedx_core.base.errors import DataError, FedXError
from fedx_core.base.parsing import parsed
from fedx_core.clients.client import Place
from fedx_core.images import contents, set_folder
from fedx_core.images.examples import Description, Examples
from fedx_core.record.journal import Journal

PACKAGES = {"source": "data", "partition": "partition"}
"""Where the plug-ins of a data set's blocks are."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a run finds its data and leaves its bytes; never what it computes.

    Args:
        run: name of the run.
        data: folder of one data set with ``prepared``, ``shards`` and ``reference`` in it.
        place: store, shards and memories, as clients see them.
        audit: folder whose ``audit.jsonl`` gets a line for each attempt of a client that does not
            count; None for no such lines.
    """

    run: str
    data: Path
    place: Place
    audit: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the server sees of the data.

    Args:
        description: of the data set.
        reference: drawn from the validation split, for relevance and normalisation.
        tuning: the rest of the validation split.
        public: without labels, for server steps; None where there are none.
        test: the test split, for reporting only.
        clients: training examples by client, in order.
        content: of all of it and of the clients' images, see :mod:`fedx_core.images.contents`.
        tested: test examples by client.
    """

    description: Description
    reference: Examples
    tuning: Examples
    public: Examples | None
    test: Examples
    clients: Mapping[str, int]
    content: Mapping[str, str]
    tested: Mapping[str, int]


def load(setting: Setting, settings: ExperimentConfig) -> Data:
    """Open what the server sees of the data, and learn who its clients are.

    Raises:
        DataError: something is missing, or was made with other settings or from another prepared
            set.
    """
    return open_data(setting.data, Path(setting.place.shards), settings)


def open_data(folder: Path, shards_folder: Path, settings: ExperimentConfig) -> Data:
    """Do what :func:`load` does, before there is a run.

    Args:
        folder: of one data set, with ``prepared`` and ``reference`` in it.
        shards_folder: with one folder a client.
        settings: of the experiment.

    Raises:
        DataError: something is missing, or was made with other settings.
    """
    prepared = set_folder.read(folder / "prepared", "test")  # training images may be elsewhere
    held_back = set_folder.read(folder / "reference")
    shards = set_folder.read_manifest(shards_folder)
    dataset = settings.datasets[settings.dataset]
    for made, block in (
        (prepared.manifest, "source"),
        (shards, "partition"),
        (held_back.manifest, "reference"),
    ):
        found = made["settings"].get(block)
        if not _same(block, found, dataset):
            wanted = config.as_plain(getattr(dataset, block))
            there, here = _apart(block, found or {}, wanted)
            raise DataError(
                f"{folder} was made with {there}, and the settings say {here}; make it again with "
                f"`fedx data {settings.dataset}` or `dvc repro`"
            )
    for part, manifest in (("shards", shards), ("reference", held_back.manifest)):
        if manifest["settings"].get("prepared", prepared.digest) != prepared.digest:
            raise DataError(
                f"the {part} of {folder} are not of its prepared set, which was made anew "
                f"since; make them again with `fedx data {settings.dataset}` or `dvc repro` (at "
                f"sites: `fedx site roster {settings.dataset}`)"
            )
    sizes = {
        part: {client["name"]: int(client["sizes"][part]) for client in shards["clients"]}
        for part in ("train", "test")
    }
    return Data(
        description=prepared.description,
        reference=held_back.parts["reference"],
        tuning=held_back.parts["tuning"],
        public=held_back.parts.get("public"),
        test=prepared.parts["test"],
        clients=sizes["train"],
        content=contents.of_data(folder, shards_folder),
        tested=sizes["test"],
    )


def _same(block: str, found: Any, dataset: DatasetConfig) -> bool:
    """Tell whether a block that was kept with data means what the settings say.

    What one of them leaves out has its default.
    """
    wanted = getattr(dataset, block)
    try:
        whole = parsed(DatasetConfig, {**config.as_plain(dataset), block: found})
    except FedXError:
        return False  # such as what another version made
    kept = getattr(whole, block)
    if package := PACKAGES.get(block):
        return bool(kept.build(package) == wanted.build(package))
    return bool(kept == wanted)


def _apart(block: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, str]:
    """Say in what two blocks of settings differ, each side by itself."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    there, here = (
        ", ".join(f"{block}.{name} {side.get(name, 'left out')}" for name in names)
        for side in (found, wanted)
    )
    return there, here


def check_same_data(journal: Journal, dataset: str, data: Data) -> None:
    """Refuse to go on with other data than those with which a run began.

    Args:
        journal: of that run.
        dataset: key of the data set.
        data: as it is now.

    Raises:
        DataError: images or labels have changed since.
    """
    if (found := journal.run()) is not None:
        contents.check_same(found.data, data.content, found.name, dataset)
