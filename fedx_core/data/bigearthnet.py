"""BigEarthNet v2 (reBEN), Sentinel-2: 480,038 patches of 1.2 km, 19 classes, ten countries.

Source: Clasen, Hackel, Burgert, Sumbul, Demir and Markl, "reBEN: Refined BigEarthNet Dataset for
Remote Sensing Image Analysis", IGARSS 2025, https://arxiv.org/abs/2407.03653; data at
https://zenodo.org/records/10891137. Licence: CDLA-Permissive-1.0.

Taken are the ten bands of 10 and 20 m, and by default the patches of June to August: 102,397 in
exactly the eight countries of FedX's experiment.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.data import base
from fedx_core.data._files import Files, Folder, open_files
from fedx_core.data._images import read
from fedx_core.data._metadata import (
    ADDRESS,
    BANDS,
    CLASS_NAMES,
    RAW,
    SUMMER,
    Metadata,
    find_metadata,
    read_metadata,
)
from fedx_core.data._units import Target, converted
from fedx_core.data.base import Source, Split, decoded, found
from fedx_core.images.examples import Description, Image

SIDE = 120
REFLECTANCE = 10_000.0
IMAGES = "BigEarthNet-S2"
ROOTS = (IMAGES, f"v2/{IMAGES}", ".")
_BLOCKS = (273, 279, 324, 325)
"""Tags of TIFF: where strips or tiles of pixels start, and how long they are."""
_TARGET = Target(
    bands=("1",),  # a file has one, which its own name names
    scale=REFLECTANCE,
    value_range=(),
    stored="uint16",
    who="BigEarthNet has",
)

# ConfigILM's, over the training split; digital numbers, bands in the order of ``BANDS``. How the
# 20 m bands are enlarged changes theirs.
MEAN = {
    "nearest": (438.372, 614.056, 588.410, 942.843, 1769.932, 2049.552, 2193.292, 2235.557,
                1568.227, 997.732),
    "bilinear": (438.372, 614.056, 588.410, 942.748, 1769.849, 2049.476, 2193.292, 2235.487,
                 1568.212, 997.715),
}  # fmt: skip
STD = {
    "nearest": (607.027, 603.297, 684.569, 738.433, 1100.456, 1275.805, 1369.372, 1356.544,
                1070.161, 813.528),
    "bilinear": (607.027, 603.297, 684.569, 727.578, 1087.429, 1261.430, 1369.372, 1342.490,
                 1063.920, 806.885),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """BigEarthNet v2 from a folder or a zip.

    Args:
        source: a folder or zip with ``BigEarthNet-S2/<tile>/<patch>/<patch>_<band>.tif`` in it;
            ``auto`` is ``data/raw/bigearthnet``.
        metadata: ``metadata.parquet``; ``auto`` looks in the source, beside it, and in the shared
            data folder.
        months: of acquisition, 1 to 12.
        upsampling: of the 20 m bands to 120 pixels.
        missing: ``error`` or ``skip`` patches that the metadata names and of which the source lacks
            a band, or the end of one.
    """

    source: str = "auto"
    metadata: str = "auto"
    months: tuple[int, ...] = SUMMER
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    missing: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.upsampling not in ("nearest", "bilinear"):
            raise ConfigError(f"upsampling must be nearest or bilinear, got {self.upsampling!r}")
        if self.missing not in ("error", "skip"):
            raise ConfigError(f"missing must be error or skip, got {self.missing!r}")

    def open(self) -> Source:
        """Read the metadata and look which patches are there with all bands.

        Raises:
            SourceMissingError: there is no metadata, or patches are missing.
            DataError: the metadata can't be used.
        """
        place = found(
            "BigEarthNet v2",
            [RAW if self.source == "auto" else Path(self.source)],
            f"fetch BigEarthNet-S2.tar.zst (some 60 GB, 88 GB unpacked) and metadata.parquet from "
            f"{ADDRESS} and unpack it there, or name a folder or zip as source",
        )
        files = open_files(place)
        table = self._metadata(files, place)
        root = next((root for root in ROOTS if files.folders(root)), ".")
        lacking = _lacking(files, root, table.patch_ids.tolist())
        absent = [patch for patch, lacks in lacking.items() if lacks == "it"]
        partial_ones = [(patch, lacks) for patch, lacks in lacking.items() if lacks != "it"]
        said = _said(absent, partial_ones)
        if lacking and self.missing == "error":
            raise SourceMissingError(
                f"{len(lacking)} of {len(table.patch_ids)} patches are not whole in {place}: "
                f"{said}; fetch them from {ADDRESS} or set missing: skip"
            )
        present = ~np.isin(table.patch_ids, list(lacking))
        splits = {}
        for name, rows in table.rows.items():
            kept = rows[present[rows]]
            patches = table.patch_ids[kept].tolist()
            read = partial(_read, files, root, patches, self.upsampling)
            splits[name] = Split(table.labels[kept], table.groups[kept], read, patches)
        return Source(
            self._description(place, table),
            splits,
            {
                "split": "that of metadata.parquet",
                "patches": len(present),
                "skipped": len(lacking),
                **({"ignored": said} if said else {}),
            },
        )

    def _metadata(self, files: Files, place: Path) -> Metadata:
        import io

        inside = [name for name in ("metadata.parquet", "v2/metadata.parquet") if files.holds(name)]
        if self.metadata == "auto" and inside:
            return read_metadata(io.BytesIO(files.read(inside[0])), self.months)
        beside = place if place.is_dir() else place.parent
        return read_metadata(find_metadata(self.metadata, beside), self.months)

    def _description(self, place: Path, table: Metadata) -> Description:
        return Description(
            name="BigEarthNet v2",
            bands=BANDS,
            class_names=CLASS_NAMES,
            label_kind="multi",
            image_size=SIDE,
            scale=REFLECTANCE,
            group_names=table.group_names,
            published_mean=tuple(value / REFLECTANCE for value in MEAN[self.upsampling]),
            published_std=tuple(value / REFLECTANCE for value in STD[self.upsampling]),
            licence="CDLA-Permissive-1.0",
            citation="Clasen et al., IGARSS 2025, arXiv:2407.03653",
            source=f"auto: {place.name}" if self.source == "auto" else self.source,
        )


def _said(absent: Sequence[str], partial_ones: Sequence[tuple[str, str]]) -> str:
    """Say how many patches are missing, whole or in part, and which comes first."""
    parts = []
    if absent:
        parts.append(f"{len(absent)} missing, {absent[0]} first")
    if partial_ones:
        patch, lacks = partial_ones[0]
        parts.append(f"{len(partial_ones)} there in part, {patch} first, which lacks {lacks}")
    return "patches " + "; ".join(parts) if parts else ""


def _lacking(files: Files, root: str, patches: Sequence[str]) -> dict[str, str]:
    """Name the patches that are not whole, and what each lacks: ``it`` all, or its bands."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(partial(_lacks, files, root), patches, chunksize=64)
        return {patch: lacks for patch, lacks in zip(patches, found, strict=True) if lacks}


def _lacks(files: Files, root: str, patch: str) -> str:
    folder = _folder(root, patch)
    sizes = files.sizes(folder)
    if not sizes:
        return "it"
    lacks = []
    for band in BANDS:
        name = f"{patch}_{band}.tif"
        if not sizes.get(name):
            lacks.append(band)
        # What a zip holds has a checksum.
        elif isinstance(files, Folder) and not _is_whole(files.root / folder / name, sizes[name]):
            lacks.append(f"a whole {band}")
    return ", ".join(lacks)


def _is_whole(path: Path, size: int) -> bool:
    """Whether a TIFF is as long as it says, by its head alone.

    A tenth of what Pillow takes, and a fiftieth of GDAL; there may be a million.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            order = {b"II": "<", b"MM": ">"}[head[:2]]
            magic, place = struct.unpack_from(f"{order}2xHI", head)
            if magic != 42:  # BigTIFF, which says it otherwise; its pixels will tell
                return True

            def at(where: int, length: int) -> bytes:
                if where + length <= len(head):
                    return head[where : where + length]
                file.seek(where)
                return file.read(length)

            (count,) = struct.unpack(f"{order}H", at(place, 2))
            tags = struct.iter_unpack(f"{order}HHI4s", at(place + 2, 12 * count))
            blocks = {tag: (kind, n, value) for tag, kind, n, value in tags if tag in _BLOCKS}
            starts, lengths = (_numbers(order, blocks[tag], at) for tag in sorted(blocks))
    except (OSError, KeyError, ValueError, struct.error):
        return False
    return all(a + b <= size for a, b in zip(starts, lengths, strict=True))


def _numbers(
    order: str, entry: tuple[int, int, bytes], at: Callable[[int, int], bytes]
) -> tuple[int, ...]:
    kind, count, value = entry
    letter = {3: "H", 4: "I"}[kind]
    length = struct.calcsize(f"{order}{count}{letter}")
    if length > 4:
        (place,) = struct.unpack(f"{order}I", value)
        value = at(place, length)
    return struct.unpack(f"{order}{count}{letter}", value[:length])


def _folder(root: str, patch: str) -> str:
    return f"{root}/{patch.rsplit('_', 2)[0]}/{patch}".removeprefix("./")


def _read(
    files: Files,
    root: str,
    patches: Sequence[str],
    upsampling: str,
    positions: NDArray[np.int64],
) -> Iterator[Image]:
    return decoded(
        partial(_patch, files, root, upsampling), [patches[position] for position in positions]
    )


def _patch(files: Files, root: str, upsampling: str, patch: str) -> Image:
    """Read ten bands; uint16 (10, 120, 120)."""
    bands = []
    for band in BANDS:
        name = f"{_folder(root, patch)}/{patch}_{band}.tif"
        raster = read(name, files.read(name))
        pixels = raster.pixels
        if pixels.dtype != np.uint16 or pixels.shape not in ((1, SIDE, SIDE), (1, 60, 60)):
            raise DataError(
                f"{name} is {pixels.dtype} {pixels.shape}, wanted uint16 of one band with 120 or "
                "60 pixels a side; fetch the patch again"
            )
        image = converted(name, raster, _TARGET)
        bands.append(image[0] if image.shape[1] == SIDE else _enlarged(image[0], upsampling))
    return np.stack(bands)


def _enlarged(band: NDArray[np.integer], upsampling: str) -> NDArray[np.uint16]:
    """Bring a 20 m band to 120 pixels a side; bilinear keeps the corners, as ConfigILM does."""
    if upsampling == "nearest":
        return np.asarray(band.repeat(2, axis=0).repeat(2, axis=1), dtype=np.uint16)
    place = np.linspace(0, len(band) - 1, SIDE)
    weights = (1 - np.abs(place[:, None] - np.arange(len(band)))).clip(min=0)
    return np.asarray((weights @ band @ weights.T).round(), dtype=np.uint16)
