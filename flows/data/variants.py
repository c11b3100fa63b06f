"""Other partitions of a data set, beside it: ``data/.partitions/<name>/<data set>/shards``.

Prepared images and reference set are the same folders, by a link.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from fedx_core.base import config, strict_json
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import DataError, StoreError
from fedx_core.base.locks import exclusive
from fedx_core.images import set_folder
from flows.data.partition import partition

FOLDER = ".partitions"


def data_root(settings: ExperimentConfig, root: Path, seed: int) -> Path:
    """Return the folder of data sets in which a run finds its partition, made where it is missing.

    Args:
        settings: of the run.
        root: folder of all data sets.
        seed: by which a missing one is drawn, so that runs that repeat share their shards.

    Raises:
        DataError: the data set was not prepared.
        StoreError: the folder can't be written.
    """
    name = settings.dataset
    wanted = config.as_plain(settings.datasets[name].partition)
    prepared = set_folder.digest(root / name / "prepared")
    if _made(root / name) == wanted:
        return root
    content = strict_json.dumps([wanted, seed, prepared], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    variant = root / FOLDER / f"{wanted['name']}-{digest}"
    try:
        with exclusive(root / FOLDER / f".{digest}.lock"):
            if _made(variant / name) != wanted:
                (variant / name).mkdir(parents=True, exist_ok=True)
                for part in ("prepared", "reference"):
                    link = variant / name / part
                    if not link.is_symlink():
                        link.symlink_to((root / name / part).absolute(), target_is_directory=True)
                partition(replace(settings, seed=seed), name, variant)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"can't write {variant}: {error.strerror or error}; choose another data root"
        ) from error
    return variant


def _made(folder: Path) -> object:
    """Return the partition that a data set's shards were made with; None where there are none."""
    try:
        return set_folder.read_manifest(folder / "shards")["settings"].get("partition")
    except DataError:
        return None
