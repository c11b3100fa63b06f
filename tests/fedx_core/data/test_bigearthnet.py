import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.data import bigearthnet
from fedx_core.data._metadata import BANDS, CLASS_NAMES, COUNTRIES_IN_SUMMER, read_metadata
from fedx_core.data.bigearthnet import DataSet
from fedx_core.images import set_folder
from fedx_core.partition import by_country
from fedx_core.partition.base import Known

Shared = Callable[[str], Path]

# Training, validation and test patches of June to August, counted in metadata.parquet.
SUMMER_COUNTS = {
    "austria": (5_941, 2_560, 1_871),
    "belgium": (1_323, 584, 32),
    "finland": (14_805, 7_753, 8_209),
    "ireland": (7_150, 4_136, 4_263),
    "lithuania": (4_206, 2_418, 2_151),
    "portugal": (8_037, 4_181, 4_220),
    "serbia": (7_180, 3_255, 3_248),
    "switzerland": (1_692, 1_143, 2_039),
}
# Of all splits and months, in CORINE order.
CLASS_COUNTS = {
    "Arable land": 188_025,
    "Mixed forest": 165_780,
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        122_709
    ),
    "Coastal wetlands": 1_397,
    "Beaches, dunes, sands": 1_316,
    "Marine waters": 61_832,
}


def test_summer_gives_eight_clients_with_the_published_counts(shared: Shared) -> None:
    table = read_metadata(shared("bigearthnet_v2_metadata/metadata.parquet"))
    train, validation, test = (
        Known(table.labels[rows], table.groups[rows]) for rows in table.rows.values()
    )
    rule = by_country.Partition()
    shares, test_shares = rule.assign(train, test, table.group_names, seed=0)
    validation_shares, _ = rule.assign(validation, test, table.group_names, seed=0)
    found = {
        client: (len(shares[client]), len(validation_shares[client]), len(test_shares[client]))
        for client in shares
    }
    assert found == SUMMER_COUNTS
    assert {name.lower(): count for name, count in COUNTRIES_IN_SUMMER.items()} == {
        client: counts[0] for client, counts in SUMMER_COUNTS.items()
    }


def test_the_whole_year_has_ten_countries_and_all_patches(shared: Shared) -> None:
    table = read_metadata(shared("bigearthnet_v2_metadata/metadata.parquet"), range(1, 13))
    assert {name: len(rows) for name, rows in table.rows.items()} == {
        "train": 237_871,
        "validation": 122_342,
        "test": 119_825,
    }
    assert len(table.group_names) == 10
    counts = dict(zip(CLASS_NAMES, table.labels.sum(axis=0, dtype=int).tolist(), strict=True))
    assert {name: counts[name] for name in CLASS_COUNTS} == CLASS_COUNTS
    assert table.labels.sum() / len(table.labels) == pytest.approx(2.949, abs=0.001)


def test_real_patches_are_read_from_the_zip_and_from_a_folder_alike(
    shared: Shared, tmp_path: Path
) -> None:
    path = shared("bigearthnet_real_mini.zip")
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.startswith("v2/")]
        archive.extractall(tmp_path, members)
    for name, place in (("zip", path), ("folder", tmp_path / "v2")):
        data_set = DataSet(source=str(place))
        source = data_set.open()
        set_folder.write(tmp_path / name, source.description, data_set.streams(source), {})
    zipped, folder = set_folder.read(tmp_path / "zip"), set_folder.read(tmp_path / "folder")
    assert {name: len(part) for name, part in zipped.parts.items()} == dict.fromkeys(
        ("train", "validation", "test"), 6
    )
    for name, part in zipped.parts.items():
        assert part.images.shape == (6, 10, 120, 120)
        assert np.array_equal(part.images, folder.parts[name].images)
    assert zipped.description.bands == BANDS
    assert zipped.description.class_names == CLASS_NAMES


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_bands_are_stacked_in_order_and_coarse_ones_repeated(shared: Shared) -> None:
    path = shared("bigearthnet_real_mini.zip")
    source = DataSet(source=str(path)).open()
    with zipfile.ZipFile(path) as archive:
        table = read_metadata(io.BytesIO(archive.read("v2/metadata.parquet")))
        patch = table.patch_ids[table.rows["test"][0]]
        (found,) = source.splits["test"].read(np.array([0]))
        for index, band in enumerate(BANDS):
            name = next(n for n in archive.namelist() if n.endswith(f"{patch}_{band}.tif"))
            with rasterio.MemoryFile(archive.read(name)) as memory, memory.open() as file:
                wanted = file.read(1)
            factor = 120 // len(wanted)
            assert factor == (1 if band in ("B02", "B03", "B04", "B08") else 2)
            for row, column in ((0, 0), (1, 0), (59, 60), (118, 119), (119, 119)):
                assert found[index, row, column] == wanted[row // factor, column // factor]


def test_real_reflectance_is_near_the_published_mean(shared: Shared) -> None:
    source = DataSet(source=str(shared("bigearthnet_real_mini.zip"))).open()
    found = np.stack(list(source.splits["train"].read(np.arange(6))))
    # Austrian fields in June: green is up to twice as bright as the mean of the year in infrared.
    ratio = found.mean(axis=(0, 2, 3)) / bigearthnet.MEAN["nearest"]
    assert ratio.min() > 0.5
    assert ratio.max() < 2


def write_metadata(path: Path, patches: list[str], **changes: list[object]) -> Path:
    count = len(patches)
    columns: dict[str, list[object]] = {
        "patch_id": list(patches),
        "labels": [["Arable land", "Transitional woodland, shrub"]] * count,
        "split": [("train", "validation", "test")[i % 3] for i in range(count)],
        "country": ["Austria"] * count,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, **changes}), path)
    return path


def write_patch(root: Path, patch: str, seed: int) -> dict[str, np.ndarray]:
    folder = root / "BigEarthNet-S2" / patch.rsplit("_", 2)[0] / patch
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    bands = {}
    for band in BANDS:
        side = 120 if band in ("B02", "B03", "B04", "B08") else 60
        bands[band] = generator.integers(0, 10_000, (side, side), dtype=np.uint16)
        with rasterio.open(
            folder / f"{patch}_{band}.tif",
            "w",
            driver="GTiff",
            width=side,
            height=side,
            count=1,
            dtype="uint16",
            transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        ) as file:
            file.write(bands[band], 1)
    return bands


PATCHES = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{i:02d}_07" for i in range(6)]


def tiny(root: Path, present: int = 6) -> dict[str, dict[str, np.ndarray]]:
    write_metadata(root / "metadata.parquet", PATCHES)
    return {patch: write_patch(root, patch, seed) for seed, patch in enumerate(PATCHES[:present])}


def test_labels_keep_corine_order_and_names_with_commas(tmp_path: Path) -> None:
    table = read_metadata(write_metadata(tmp_path / "metadata.parquet", PATCHES))
    assert np.flatnonzero(table.labels[0]).tolist() == [2, 13]
    assert table.group_names == ("Austria",)
    assert table.rows["validation"].tolist() == [1, 4]


def test_bilinear_upsampling_keeps_the_corners(tmp_path: Path) -> None:
    wanted = tiny(tmp_path)[PATCHES[0]]
    source = DataSet(source=str(tmp_path), upsampling="bilinear").open()
    (found,) = source.splits["train"].read(np.array([0]))
    coarse, fine = wanted["B05"].astype(np.float64), found[3]
    assert [fine[0, 0], fine[-1, -1]] == [coarse[0, 0], coarse[-1, -1]]
    # Pixel 60 of 119 steps over 59: at 29.748 between the coarse rows and columns 29 and 30.
    part = 60 * 59 / 119 - 29
    rows = coarse[29] * (1 - part) + coarse[30] * part
    assert fine[60, 60] == round(rows[29] * (1 - part) + rows[30] * part)
    assert np.array_equal(found[0], wanted["B02"])
    assert source.description.published_std == tuple(
        value / 10_000 for value in bigearthnet.STD["bilinear"]
    )


def test_missing_patches_are_an_error_or_skipped(tmp_path: Path) -> None:
    tiny(tmp_path, present=4)
    with pytest.raises(SourceMissingError, match=rf"2 of 6 patches .*{PATCHES[4]} first;.*skip"):
        DataSet(source=str(tmp_path)).open()
    data_set = DataSet(source=str(tmp_path), missing="skip")
    source = data_set.open()
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert source.notes["skipped"] == 2
    assert next(iter(data_set.streams(source)["test"].images)).shape == (10, 120, 120)


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halved_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def no_tiff(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize("harm", [gone, empty, cut, halved_head, no_tiff])
def test_a_patch_without_a_whole_band_counts_as_missing(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    tiny(tmp_path, present=5)
    harm(next(tmp_path.rglob(f"{PATCHES[0]}_B8A.tif")))
    with pytest.raises(SourceMissingError, match=rf"2 of 6 .*; 1 there in part, {PATCHES[0]} fi"):
        DataSet(source=str(tmp_path)).open()
    data_set = DataSet(source=str(tmp_path), missing="skip")
    source = data_set.open()
    assert source.notes["skipped"] == 2
    assert source.notes["ignored"].startswith(f"patches 1 missing, {PATCHES[5]} first; 1 there in")
    assert source.notes["ignored"].endswith("B8A")
    read = {name: len(list(part.images)) for name, part in data_set.streams(source).items()}
    assert read == {"train": 1, "validation": 2, "test": 1}


def test_a_zip_with_a_patch_in_part_skips_it(tmp_path: Path) -> None:
    tiny(tmp_path / "all")
    with zipfile.ZipFile(tmp_path / "ben.zip", "w") as archive:
        for path in sorted((tmp_path / "all").rglob("*")):
            if path.is_file() and path.name != f"{PATCHES[1]}_B02.tif":
                archive.write(path, path.relative_to(tmp_path / "all"))
    source = DataSet(source=str(tmp_path / "ben.zip"), missing="skip").open()
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 2, "validation": 1, "test": 2,
    }  # fmt: skip
    assert source.notes["ignored"] == (
        f"patches 1 there in part, {PATCHES[1]} first, which lacks B02"
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", [{}, {"TILED": True}, {"COMPRESS": "DEFLATE"}])
def test_whole_files_of_any_layout_are_seen_to_be_whole(
    tmp_path: Path, order: str, layout: dict[str, object]
) -> None:
    path = tmp_path / "one.tif"
    endianness = {"<": "LITTLE", ">": "BIG"}[order]
    if "TILED" in layout:
        layout = {"TILED": True, "BLOCKXSIZE": 16, "BLOCKYSIZE": 16}
    with rasterio.open(
        path, "w", driver="GTiff", width=120, height=120, count=1, dtype="uint16",
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0), ENDIANNESS=endianness, **layout,
    ) as file:  # fmt: skip
        file.write(np.arange(14_400, dtype=np.uint16).reshape(1, 120, 120))
    size = path.stat().st_size
    assert bigearthnet._is_whole(path, size)
    path.write_bytes(path.read_bytes()[:-1])
    assert not bigearthnet._is_whole(path, size - 1)


@pytest.mark.parametrize("country", [None, "", " ", "nan"])
def test_a_country_without_a_name_is_refused_with_its_patch(
    tmp_path: Path, country: str | None
) -> None:
    path = write_metadata(
        tmp_path / "metadata.parquet", PATCHES, country=["Austria", "Serbia", country] * 2
    )
    with pytest.raises(DataError, match=rf"patch {PATCHES[2]} has the country .*wanted a name"):
        read_metadata(path)


def test_a_split_that_is_none_is_refused_with_its_patch(tmp_path: Path) -> None:
    path = write_metadata(
        tmp_path / "metadata.parquet",
        PATCHES,
        split=["train", "test", "validation", None, "test", "test"],
    )
    with pytest.raises(DataError, match=rf"patch {PATCHES[3]} has the split None, wanted one of"):
        read_metadata(path)


def test_a_band_of_another_size_is_named(tmp_path: Path) -> None:
    tiny(tmp_path)
    folder = next(tmp_path.rglob(PATCHES[0]))
    (folder / f"{PATCHES[0]}_B02.tif").write_bytes(_tiff(np.zeros((1, 20, 20), np.uint16)))
    source = DataSet(source=str(tmp_path)).open()
    with pytest.raises(DataError, match=r"_B02.tif is uint16 .1, 20, 20., wanted uint16"):
        list(source.splits["train"].read(np.array([0])))


def _tiff(pixels: np.ndarray) -> bytes:
    bands, height, width = pixels.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=width,
            height=height,
            count=bands,
            dtype=pixels.dtype,
            transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        ) as file:
            file.write(pixels)
        return memory.read()


def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"is not the metadata of BigEarthNet v2"):
        read_metadata(tmp_path / "metadata.parquet")
    pq.write_table(pa.table({"patch_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"wanted a parquet file with the columns patch_id, labels"):
        read_metadata(tmp_path / "other.parquet")
    foreign = write_metadata(
        tmp_path / "foreign.parquet", PATCHES, labels=[["Lunar mare"]] * len(PATCHES)
    )
    with pytest.raises(DataError, match="none of BigEarthNet's 19"):
        read_metadata(foreign)


def test_months_without_patches_and_impossible_months_are_refused(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "metadata.parquet", PATCHES)
    with pytest.raises(DataError, match=r"no patch of the months \[1\]"):
        read_metadata(path, [1])
    for months in ([13], []):
        with pytest.raises(ConfigError, match="months must be some of 1 to 12"):
            read_metadata(path, months)


def test_a_missing_source_says_where_it_looked_and_how_large_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceMissingError, match=r"data/raw/bigearthnet; .*60 GB.*zenodo"):
        DataSet().open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsampling": "cubic"}, "upsampling must be nearest or bilinear"),
        ({"missing": "ignore"}, "missing must be error or skip"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSet(**changes)
