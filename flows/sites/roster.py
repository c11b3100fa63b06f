"""The coordinator's list of clients, where sites hold the shards and nobody else has counted them.

A simulation cuts shards out of one set, and a manifest beside them names the clients. Here the
clients are the admitted sites, and what each may say it has is what it was admitted with.
"""

from pathlib import Path

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import DataError, SiteError, StoreError
from fedx_core.images import set_folder, set_manifest
from fedx_core.sites.registry import Registry

PARTS = ("train", "test")


def write(experiment: ExperimentConfig, name: str, root: Path, registry: Registry) -> Path:
    """Make ``<root>/<name>/shards/manifest.json`` from the admitted sites.

    Args:
        experiment: the settings; ``datasets.<name>.partition`` is noted and not used.
        name: a key of ``datasets``; what the coordinator has of it must be prepared.
        root: the folder of all data sets.
        registry: of the coordinator.

    Returns:
        The file.

    Raises:
        SiteError: nobody is admitted, or one of the sites without a bound on its images.
        DataError: there is no prepared set, or the shards of a simulation are in the way.
        StoreError: the file can't be written.
    """
    prepared, folder = root / name / "prepared", root / name / "shards"
    if shards := _simulated(folder):
        raise DataError(
            f"{folder} holds shards of a simulation ({', '.join(shards[:3])}, ...); move them "
            "away, or give the coordinator another data root"
        )
    clients = [{"name": site, "sizes": _sizes(registry, site)} for site in registry.names()]
    if not clients:
        raise SiteError(
            f"nobody is admitted in {registry.folder}; `fedx site admit` takes the file that a "
            "site's people made with `fedx site enroll`"
        )
    known = set_folder.read(prepared, "test")
    settings = {
        "partition": config.as_plain(experiment.datasets[name].partition),
        "prepared": known.digest,
    }
    classes = known.description.class_names
    with set_folder.replacing(folder) as beside:
        set_folder.write_manifest(
            beside, {"class_names": classes, "clients": clients, "settings": settings}
        )
    return folder / set_manifest.MANIFEST


def _simulated(folder: Path) -> list[str]:
    """Name the shards that lie in a folder."""
    try:
        return [path.name for path in sorted(folder.glob("*")) if path.is_dir()]
    except OSError as error:
        raise StoreError(
            f"can't read {folder}: {error.strerror}; choose another --data-root"
        ) from error


def _sizes(registry: Registry, site: str) -> dict[str, int]:
    most = registry.site(site).max_examples
    if not most:
        raise SiteError(
            f"{site} was admitted without a bound on its images; ask its people how many it has, "
            "and admit it again with --max-examples"
        )
    return dict.fromkeys(PARTS, most)
