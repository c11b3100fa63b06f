"""EuroSAT: 27,000 Sentinel-2 patches of 64 x 64 pixels at 10 m, ten classes.

Source: Helber, Bischke, Dengel and Borth, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for
Land Use and Land Cover Classification", IEEE JSTARS 12(7), 2019,
https://doi.org/10.1109/JSTARS.2019.2918242. Licence: MIT.

The release has no splits. The lists that most others use, 16,200 / 5,400 / 5,400, are those of
Neumann et al. 2019, https://arxiv.org/abs/1911.06721.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.data import base
from fedx_core.data._files import Files, open_files
from fedx_core.data._images import read
from fedx_core.data._units import Target, converted, stored_as
from fedx_core.data.base import SPLITS, Source, Split, decoded, found, shared_data
from fedx_core.images.examples import Description, Image

RAW = Path("data/raw/eurosat")
SIDE = 64

CLASS_NAMES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)

# In the order of the GeoTIFFs, where B8A comes last.
ALL_BANDS = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A",
)  # fmt: skip

# Over all pixels of all 27,000 JPEGs. The widely copied deviation (0.0914, 0.0651, 0.0552) is the
# mean of the images' own deviations, which is less.
RGB_MEAN = (0.3444, 0.3803, 0.4078)
RGB_STD = (0.2027, 0.1369, 0.1156)

# torchgeo's, over the training list; digital numbers.
ALL_MEAN = (
    1354.405, 1118.244, 1042.930, 947.626, 1199.473, 1999.791, 2369.223, 2296.826, 732.083, 12.113,
    1819.010, 1118.924, 2594.141,
)  # fmt: skip
ALL_STD = (
    245.718, 333.008, 395.092, 593.751, 566.417, 861.184, 1086.631, 1117.982, 404.920, 4.776,
    1002.588, 761.303, 1231.586,
)  # fmt: skip
REFLECTANCE = 10_000.0

FETCH = {
    "rgb": (
        "fetch it (94 MB) with: python -c \"from torchvision.datasets import EuroSAT; "
        "EuroSAT('data/raw', download=True)\", or set source: download, or name a folder or zip"
    ),
    "all": (
        "fetch it (2.1 GB) from https://zenodo.org/records/7711810/files/EuroSAT_MS.zip and set "
        "source to that zip"
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """EuroSAT from a folder, a zip, or a download.

    Args:
        source: a folder or a zip with one folder per class; ``auto`` looks in the shared data
            folder and in ``data/raw/eurosat``; ``download`` lets torchvision fetch the RGB images.
        splits: a folder with ``eurosat_train.csv``, ``eurosat_val.csv`` and ``eurosat_test.csv``,
            lines ``Class/File.jpg,Class``; ``auto`` takes such lists from ``eurosat_split`` in or
            beside the source if they are there; ``random`` draws 60/20/20, class by class.
        bands: ``rgb`` reads JPEGs, ``all`` the 13 bands of the GeoTIFFs, B8A last.
        missing: ``error`` or ``skip`` images that the lists name and the source lacks.
    """

    source: str = "auto"
    splits: str = "auto"
    bands: Literal["rgb", "all"] = "rgb"
    missing: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bands not in ("rgb", "all"):
            raise ConfigError(f"bands must be rgb or all, got {self.bands!r}")
        if self.missing not in ("error", "skip"):
            raise ConfigError(f"missing must be error or skip, got {self.missing!r}")
        if self.source == "download" and self.bands == "all":
            raise ConfigError("torchvision has the RGB images only; name a folder or zip as source")

    def open(self) -> Source:
        """List the images and split them.

        Raises:
            SourceMissingError: there are no images, no lists, or an image of a list is missing.
            DataError: a class has no folder, or a list can't be read.
        """
        place = self._place()
        files = open_files(place)
        ending = ".jpg" if self.bands == "rgb" else ".tif"
        names = [
            name
            for name in files.names()
            if name.endswith(ending) and PurePosixPath(name).parent.name in CLASS_NAMES
        ]
        labels = np.array(
            [CLASS_NAMES.index(PurePosixPath(name).parent.name) for name in names], dtype=np.int64
        )
        absent = set(CLASS_NAMES) - {CLASS_NAMES[label] for label in np.unique(labels)}
        if absent:
            raise DataError(
                f"no {ending} images of {', '.join(sorted(absent))} in {place}; wanted one folder "
                f"a class; {FETCH[self.bands]}"
            )
        positions, note = self._positions(place, names, labels)
        description = self._description(place)
        target = Target(
            bands=description.bands,
            scale=description.scale,
            value_range=(),
            stored=stored_as(description.scale, ()),
            who="EuroSAT has",
        )
        splits = {
            split: Split(
                labels[rows],
                base.no_groups(len(rows)),
                partial(_read, files, [names[row] for row in rows], target),
                [names[row] for row in rows],
            )
            for split, rows in positions.items()
        }
        return Source(description, splits, {"split": note, "images": len(names)})

    def _place(self) -> Path:
        if self.source == "download":
            from torchvision.datasets import EuroSAT

            EuroSAT(str(RAW.parent), download=True)
            return RAW
        zipped = "eurosat_rgb.zip" if self.bands == "rgb" else "eurosat_ms.zip"
        candidates = [shared_data() / zipped, RAW] if self.source == "auto" else [Path(self.source)]
        return found("EuroSAT", candidates, FETCH[self.bands])

    def _positions(
        self, place: Path, names: list[str], labels: NDArray[np.int64]
    ) -> tuple[Mapping[str, NDArray[np.int64]], str]:
        """Positions in ``names`` of each split, and how they came about."""
        if self.splits == "auto":
            beside = [place / "eurosat_split", place.parent / "eurosat_split"]
            lists = next((folder for folder in beside if folder.is_dir()), None)
        elif self.splits == "random":
            lists = None
        else:
            lists = found("split lists", [Path(self.splits)], "or set splits: random")
        if lists is None:
            return base.random_splits(labels, self.seed), "drawn 60/20/20, class by class"

        where = {PurePosixPath(name).stem: row for row, name in enumerate(names)}
        positions, skipped = {}, 0
        for split, short in zip(SPLITS, ("train", "val", "test"), strict=True):
            listed = _listed(lists / f"eurosat_{short}.csv")
            missing = [name for name in listed if name not in where]
            if missing and self.missing == "error":
                raise SourceMissingError(
                    f"{len(missing)} of {len(listed)} images of the {split} list are not in "
                    f"{place}, {missing[0]} first; fetch the data again or set missing: skip"
                )
            skipped += len(missing)
            rows = [where[name] for name in listed if name in where]
            positions[split] = np.sort(np.array(rows, dtype=np.int64))
        every = np.concatenate(list(positions.values()))
        if len(np.unique(every)) != len(every):
            raise DataError(
                f"the lists in {lists} name an image twice, wanted each once; take one line out"
            )
        return positions, f"lists in {lists.name}" + (f", {skipped} skipped" if skipped else "")

    def _description(self, place: Path) -> Description:
        rgb = self.bands == "rgb"
        mean, std = (RGB_MEAN, RGB_STD) if rgb else (ALL_MEAN, ALL_STD)
        unit = 1.0 if rgb else REFLECTANCE
        return Description(
            name="EuroSAT",
            bands=("B04", "B03", "B02") if rgb else ALL_BANDS,
            class_names=CLASS_NAMES,
            label_kind="single",
            image_size=SIDE,
            scale=255.0 if rgb else REFLECTANCE,
            published_mean=tuple(value / unit for value in mean),
            published_std=tuple(value / unit for value in std),
            licence="MIT",
            citation="Helber et al., IEEE JSTARS 12(7), 2019, doi:10.1109/JSTARS.2019.2918242",
            # Where exactly is this machine's affair.
            source=f"auto: {place.name}" if self.source == "auto" else self.source,
        )


def _read(
    files: Files, names: list[str], target: Target, positions: NDArray[np.int64]
) -> Iterator[Image]:
    return decoded(
        lambda name: converted(name, read(name, files.read(name)), target),
        [names[position] for position in positions],
    )


def _listed(path: Path) -> list[str]:
    """Read a list; names without folder and ending, since the GeoTIFFs share them."""
    try:
        lines = path.read_text().split()
    except FileNotFoundError as error:
        raise SourceMissingError(
            f"no split list {path}; name a folder that holds it, or set splits: random"
        ) from error
    return [PurePosixPath(line.partition(",")[0]).stem for line in lines]
