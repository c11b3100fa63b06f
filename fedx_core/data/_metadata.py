"""The metadata table of BigEarthNet v2: labels, countries and splits of its patches.

It says everything of a patch but its pixels, so data can be partitioned, and scenes be drawn, from
these 3.6 MB alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.data._labelled import MISSING, tidy
from fedx_core.data.base import SPLITS, found, shared_data

if TYPE_CHECKING:
    from pyarrow import Table

ADDRESS = "https://zenodo.org/records/10891137"
RAW = Path("data/raw/bigearthnet")
SUMMER = (6, 7, 8)

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# In CORINE's order, in which labels are stored. Some names hold commas; never split on them.
CLASS_NAMES = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)

# Training patches of June to August, counted in metadata.parquet.
COUNTRIES_IN_SUMMER = {
    "Austria": 5941,
    "Belgium": 1323,
    "Finland": 14805,
    "Ireland": 7150,
    "Lithuania": 4206,
    "Portugal": 8037,
    "Serbia": 7180,
    "Switzerland": 1692,
}


@dataclass(frozen=True)
class Metadata:
    """Patches of the chosen months, in the file's order.

    Args:
        patch_ids: one a patch.
        labels: uint8 (n, 19) of 0 and 1, in CORINE order.
        groups: int16 (n,) index into ``group_names``.
        group_names: the countries that occur, in alphabetical order.
        rows: positions of the patches of each split, int64.
    """

    patch_ids: NDArray[np.str_]
    labels: NDArray[np.uint8]
    groups: NDArray[np.int16]
    group_names: tuple[str, ...]
    rows: Mapping[str, NDArray[np.int64]]


def find_metadata(path: str, beside: Path = RAW) -> Path:
    """Find ``metadata.parquet``.

    Args:
        path: the file, or ``auto`` to look beside the images and in the shared data folder.
        beside: where the images are.

    Raises:
        SourceMissingError: it is not there.
    """
    name = "metadata.parquet"
    candidates = (
        [beside / name, shared_data() / "bigearthnet_v2_metadata" / name]
        if path == "auto"
        else [Path(path)]
    )
    return found(
        "metadata of BigEarthNet v2",
        candidates,
        f"fetch it (3.6 MB) with: mkdir -p {RAW} && curl -L -o {RAW}/{name} {ADDRESS}/files/{name}",
    )


def read_metadata(path: Path | BinaryIO, months: Sequence[int] = SUMMER) -> Metadata:
    """Read labels, countries and splits of the patches taken in some months.

    Args:
        path: ``metadata.parquet``, or the file opened.
        months: 1 to 12; the month of acquisition, not that of the paired radar image.

    Raises:
        ConfigError: a month is not one.
        DataError: the file is not that table, or no patch is of these months.
    """
    import pyarrow
    import pyarrow.compute as pc
    import pyarrow.parquet

    if not months or not set(months) <= set(range(1, 13)):
        raise ConfigError(f"months must be some of 1 to 12, got {list(months)}")
    columns = ["patch_id", "labels", "split", "country"]
    try:
        table = pyarrow.parquet.read_table(path, columns=columns)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path} is not the metadata of BigEarthNet v2 ({error}); wanted a parquet file with "
            f"the columns {', '.join(columns)} from {ADDRESS}"
        ) from error
    # S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57
    #             ^ 11    ^ 15: month
    month = pc.utf8_slice_codeunits(table["patch_id"], 15, 17)
    table = table.filter(pc.is_in(month, pyarrow.array([f"{m:02d}" for m in months])))
    if not len(table):
        raise DataError(f"{path} has no patch of the months {list(months)}; choose other months")

    flat = pc.index_in(pc.list_flatten(table["labels"]), pyarrow.array(CLASS_NAMES))
    if flat.null_count:
        raise DataError(
            f"{path} names classes that are none of BigEarthNet's 19; fetch it again from {ADDRESS}"
        )
    owner = pc.list_parent_indices(table["labels"])
    labels = np.zeros((len(table), len(CLASS_NAMES)), dtype=np.uint8)
    labels[owner.to_numpy(), flat.to_numpy()] = 1

    _check(path, table, "split", lambda text: text in SPLITS, f"one of {', '.join(SPLITS)}")
    _check(path, table, "country", lambda text: tidy(text).lower() not in MISSING, "a name")
    names = tuple(sorted(pc.unique(table["country"]).to_pylist()))
    groups = pc.index_in(table["country"], pyarrow.array(names)).to_numpy().astype(np.int16)
    split = table["split"].to_numpy()
    return Metadata(
        table["patch_id"].to_numpy().astype(str),
        labels,
        groups,
        names,
        {name: np.flatnonzero(split == name) for name in SPLITS},
    )


def _check(
    path: Path | BinaryIO, table: "Table", column: str, fits: Callable[[str], bool], wanted: str
) -> None:
    """Refuse a table with a value that a column can't have, such as a country without a name."""
    import pyarrow.compute as pc

    values = pc.unique(table[column]).to_pylist()
    for value in values:
        if value is None or not fits(value):
            bad = pc.is_null(table[column]) if value is None else pc.equal(table[column], value)
            patch = table["patch_id"].filter(bad)[0].as_py()
            raise DataError(
                f"{_named(path)}: patch {patch} has the {column} {value!r}, wanted {wanted}; fetch "
                f"the file again from {ADDRESS}, or take such patches out of it"
            )


def _named(path: Path | BinaryIO) -> str:
    return str(path) if isinstance(path, Path) else "metadata.parquet"
