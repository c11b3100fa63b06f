"""What random splits flatter: real EuroSAT patches, split at random and by longitude.

    python benchmarks/spatial_split.py --zip ../shared/data/eurosat_ms270.zip

Patches of one place are alike, so a test patch that lies beside a training patch is easier than one
of another country. torchgeo's EuroSATSpatial splits all 27,000 patches by longitude; its lists are
downloaded with the data. Here the same is done with the 13-band GeoTIFFs that are there, which say
where they lie: 60 % from the west train, the next 20 % validate, the others test. Both splits are
laid out as torchgeo wants them and read by the source ``torchgeo``. Prints a table of five seeds:
ResNet6, trained centrally; random splits are drawn anew for each seed, class by class.
"""

import argparse
import tempfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio.warp
from rasterio.io import MemoryFile

from fedx_core.base import config
from fedx_core.base.seeding import derive
from fedx_core.clients.client import Place
from fedx_core.images import strata
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

ROOT = Path(__file__).parent.parent
LAYOUT = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
SHARES = (0.6, 0.2, 0.2)
SPLITS = ("train", "val", "test")
SETTINGS: dict[str, Any] = {
    "dataset": "patches",
    "method.name": "centralised",
    "training.batch_size": 32,
    "training.epochs": 3,
    "training.batch_norm": "recalibrate",
}


def main() -> None:
    """Train on both splits, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--zip", type=Path, default=Path("../shared/data/eurosat_ms270.zip"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10, help="of three passes each")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        longitudes = unpack(options.zip, Path(folder) / LAYOUT)
        names = np.array(sorted(longitudes))
        classes = np.unique([name.partition("_")[0] for name in names], return_inverse=True)[1]
        west_to_east = np.array([longitudes[name] for name in names])
        found: dict[str, list[float]] = {"random": [], "by longitude": []}
        for seed in range(1, options.seeds + 1):
            drawn = strata.split(classes, SHARES, derive(seed, "split"))
            for how, parts in (("random", drawn), ("by longitude", by_longitude(west_to_east))):
                lay_out(Path(folder), names, parts)
                found[how].append(accuracy(Path(folder), seed, options.rounds))
    print(f"{len(names)} patches, {options.seeds} seeds; % of test patches")
    print("| split | mean | each seed |\n| --- | ---: | --- |")
    for how, scores in found.items():
        each = " ".join(f"{100 * score:.1f}" for score in scores)
        print(f"| {how} | {100 * np.mean(scores):.1f} | {each} |")


def unpack(path: Path, folder: Path) -> dict[str, float]:
    """Put the patches where torchgeo looks for them; give each one's longitude by its name."""
    longitudes = {}
    with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio's own
        for entry in sorted(archive.namelist()):
            name = PurePosixPath(entry)
            if name.suffix != ".tif":
                continue
            payload = archive.read(entry)
            with MemoryFile(payload) as memory, memory.open() as file:
                x = (file.bounds.left + file.bounds.right) / 2
                y = (file.bounds.bottom + file.bounds.top) / 2
                (longitude,), _ = rasterio.warp.transform(file.crs, "EPSG:4326", [x], [y])
            place = folder / name.parent.name / name.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(payload)
            longitudes[name.name] = float(longitude)
    return longitudes


def by_longitude(west_to_east: Any) -> list[Any]:
    """Cut patches into the westernmost 60 %, the next 20 % and the rest; positions of each."""
    order = np.argsort(west_to_east, kind="stable")
    cuts = np.round(np.cumsum(SHARES)[:-1] * len(order)).astype(int)
    return [np.sort(part) for part in np.split(order, cuts)]


def lay_out(root: Path, names: Any, parts: Any) -> None:
    """Write the lists of a split as torchgeo's EuroSATSpatial has them."""
    for split, rows in zip(SPLITS, parts, strict=True):
        lines = [name.replace(".tif", ".jpg") for name in names[rows]]
        (root / f"eurosat-spatial-{split}.txt").write_text("\n".join(lines) + "\n")


def accuracy(root: Path, seed: int, rounds: int) -> float:
    """Prepare what is laid out, train centrally, and score on the test part."""
    blocks = {
        "source": {"name": "torchgeo", "data_set": "EuroSATSpatial", "root": str(root)},
        "partition": {"name": "iid", "clients": 1},
        "reference": {"per_class": 2, "absent": "skip"},
    }
    settings = {**SETTINGS, "seed": seed, "federation.rounds": rounds, "datasets.patches": blocks}
    experiment = config.load(ROOT / "params.yaml", settings)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for stage in (prepare, partition, reference):
            stage(experiment, "patches", data)
        shards = str(data / "patches" / "shards")
        place = Place(store=str(data / "store"), shards=shards, memory=str(data / "memory"))
        setting = Setting(run=f"spatial-{seed}", data=data / "patches", place=place)
        reports = list(federate(experiment, setting, InProcess(1)))
    return float(reports[-1].metrics["overall_accuracy"])


if __name__ == "__main__":
    main()
