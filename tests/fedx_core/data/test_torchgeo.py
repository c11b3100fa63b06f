import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image as pillow

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError, UnknownNameError
from fedx_core.data import torchgeo
from fedx_core.data.base import SPLITS
from fedx_core.data.torchgeo import DataSet
from fedx_core.images import set_folder

# What is drawn here lies nowhere on the map.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = ("field", "forest", "water")
SHORT = ("train", "val", "test")


def picture(path: Path, seed: int, side: int = 8, bands: int = 3) -> Path:
    """Draw a picture of 8 bits whose first value is its seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        pillow.fromarray(pixels).save(path, quality=95)
    else:
        pillow.fromarray(pixels).save(path)
    return path


def raster(path: Path, seed: int, bands: int, side: int = 8, dtype: str = "uint16") -> Path:
    """Write a GeoTIFF; floats are backscatter in decibels, whole numbers reflectances."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    shape = (bands, side, side)
    pixels = draw.integers(300, 4000, shape) if dtype != "float32" else draw.normal(-12, 3, shape)
    form = {"driver": "GTiff", "width": side, "height": side, "count": bands, "dtype": dtype}
    with rasterio.open(path, "w", **form) as file:
        file.write(pixels.astype(dtype))
    return path


def listed(root: Path, pattern: str, lines: Callable[[str], Sequence[str]]) -> None:
    for split in SHORT:
        root.mkdir(parents=True, exist_ok=True)
        (root / pattern.format(split)).write_text("\n".join(lines(split)) + "\n")


def eurosat(root: Path, pattern: str = "eurosat-{}.txt") -> None:
    folder = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    for number, (name, split) in enumerate((c, s) for c in CLASSES for s in SHORT):
        raster(folder / name / f"{name}_{split}.tif", number, 13)
    listed(root, pattern, lambda split: [f"{name}_{split}.jpg" for name in CLASSES])


def ucmerced(root: Path) -> None:
    folder = root / "UCMerced_LandUse/Images"
    for number, (name, split) in enumerate((c, s) for c in CLASSES for s in SHORT):
        picture(folder / name / f"{name}{split}.tif", number)
    listed(root, "uc_merced-{}.txt", lambda split: [f"{name}{split}.tif" for name in CLASSES])


def resisc45(root: Path) -> None:
    for number, (name, split) in enumerate((c, s) for c in CLASSES for s in SHORT):
        picture(root / "NWPU-RESISC45" / name / f"{name}_{split}.jpg", number)
    listed(root, "resisc45-{}.txt", lambda split: [f"{name}_{split}.jpg" for name in CLASSES])


def patternnet(root: Path) -> None:
    for number, (name, row) in enumerate((c, r) for c in CLASSES for r in range(5)):
        picture(root / "PatternNet/images" / name / f"{name}{row}.jpg", number)


def firerisk(root: Path) -> None:
    for split in ("train", "val"):
        for number, (name, row) in enumerate((c, r) for c in CLASSES for r in range(4)):
            picture(root / "FireRisk" / split / name / f"{row}.png", number)


def millionaid(root: Path) -> None:
    for number, (name, row) in enumerate((c, r) for c in CLASSES for r in range(5)):
        picture(root / "train/agriculture" / name / f"{name}{row}.jpg", number)
        picture(root / "train/transport/road" / f"{name}-road" / f"{name}{row}.jpg", number)
    picture(root / "test/P1.jpg", 1)  # the test part has no labels


def advance(root: Path) -> None:
    from scipy.io import wavfile

    for number, (name, row) in enumerate((c, r) for c in CLASSES for r in range(5)):
        picture(root / "vision" / name / f"{name}{row}.jpg", number)
        sound = root / "sound" / name / f"{name}{row}.wav"
        sound.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(sound, 8000, np.zeros(4, dtype=np.int16))


BEN_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def bigearthnet(root: Path) -> None:
    sentinel1, sentinel2 = root / "BigEarthNet-S1-v1.0", root / "BigEarthNet-v1.0"
    labels = (["Pastures"], ["Pastures", "Water bodies"], ["Water bodies"])
    for split in SHORT:
        for number, names in enumerate(labels):
            optical, radar = f"S2_{split}{number}", f"S1_{split}{number}"
            for band in BEN_BANDS:
                raster(sentinel2 / optical / f"{optical}_{band}.tif", number, 1, 120)
            for band in ("VV", "VH"):
                raster(sentinel1 / radar / f"{radar}_{band}.tif", number, 1, 120, "float32")
            for folder in (sentinel2 / optical, sentinel1 / radar):
                (folder / f"{folder.name}_labels.json").write_text(json.dumps({"labels": names}))
    rows = {s: [f"S2_{s}{n},S1_{s}{n}" for n in range(3)] for s in SHORT}
    listed(root, "bigearthnet-{}.csv", lambda split: rows[split])


def so2sat(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name in ("training", "validation", "testing"):
        with h5py.File(root / f"{name}.h5", "w") as file:
            draw = np.random.default_rng(len(name))
            file["sen1"] = draw.normal(size=(17, 8, 8, 8))
            file["sen2"] = draw.integers(0, 28_000, (17, 8, 8, 10)) / 10_000
            file["label"] = np.eye(17)


def quakeset(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "earthquakes.h5", "w") as file:
        for number, split in enumerate(("train", "validation", "test")):
            event = file.create_group(f"event{number}")
            event.attrs["split"], event.attrs["magnitude"] = split, 5.5
            for row in range(2):
                patch = event.create_group(f"patch_{row}")
                for when in ("before", "pre", "post"):
                    patch[when] = np.random.default_rng(row).random((8, 8, 2), dtype=np.float32)


def treesatai(root: Path) -> None:
    marks: dict[str, list[list[Any]]] = {}
    for split, count in (("train", 8), ("test", 3)):
        files = [f"Abies_{row}_{split}.tif" for row in range(count)]
        (root / f"{split}_filenames.lst").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}_filenames.lst").write_text("\n".join(files) + "\n")
        for row, name in enumerate(files):
            raster(root / "s2/60m" / name, row, 12)
            raster(root / "aerial/60m" / name, row, 4)
            marks[name] = [["Abies", 0.6], ["Tilia", 0.4]] if row % 2 else [["Tilia", 1.0]]
    (root / "labels").mkdir()
    (root / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(marks))
    (root / "geojson").mkdir()
    (root / "s1").mkdir()


def copernicus(root: Path) -> None:
    folder = root / "eurosat_s2"
    names = ("AnnualCrop", "Forest", "River")
    for number, (name, split) in enumerate((c, s) for c in names for s in SHORT):
        raster(folder / "all_imgs" / name / f"{name}_{split}.tif", number, 13)
    listed(folder, "eurosat-{}.txt", lambda split: [f"{name}_{split}.jpg" for name in names])


Drawn = Callable[[Path], None]
KINDS: dict[str, tuple[Drawn, dict[str, Any]]] = {
    "EuroSAT": (eurosat, {}),
    "EuroSATSpatial": (lambda root: eurosat(root, "eurosat-spatial-{}.txt"), {}),
    "EuroSAT100": (lambda root: eurosat(root, "eurosat-100-{}.txt"), {}),
    "UCMerced": (ucmerced, {}),
    "RESISC45": (resisc45, {}),
    "PatternNet": (patternnet, {}),
    "FireRisk": (firerisk, {}),
    "MillionAID": (millionaid, {}),
    "ADVANCE": (advance, {}),
    "BigEarthNet": (bigearthnet, {"bands": "s2"}),
    "So2Sat": (so2sat, {}),
    "QuakeSet": (quakeset, {}),
    "TreeSatAI": (treesatai, {"sensors": ["s2"]}),
    "CopernicusBenchEuroSATS2": (copernicus, {}),
}


def made(name: str, root: Path, **settings: Any) -> DataSet:
    draw, options = KINDS[name]
    draw(root)
    return DataSet(data_set=name, root=str(root), **{"options": options, **settings})


def labels(data_set: DataSet) -> dict[str, NDArray[np.integer]]:
    return {name: split.labels for name, split in data_set.open().splits.items()}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_prepared_with_torchgeos_own_pixels(name: str, tmp_path: Path) -> None:
    data_set = made(name, tmp_path / "raw")
    source = data_set.open()
    set_folder.write(tmp_path / "set", source.description, data_set.streams(source), {})
    prepared = set_folder.read(tmp_path / "set")
    assert set(prepared.parts) == set(SPLITS)
    assert prepared.description.licence
    assert prepared.description.citation.startswith("https://")
    assert len(prepared.description.bands) == prepared.parts["train"].images.shape[1]
    parts = torchgeo._parts(data_set._make, torchgeo._splits(torchgeo._class(name)))
    theirs = [torchgeo.pixels(part, row) for part in parts.values() for row in range(len(part))]
    low, high = prepared.description.value_range or (0.0, prepared.description.scale)
    # Fractions are kept in steps of the range, and sizes that torchgeo changes in whole numbers.
    step = (high - low) / prepared.description.scale if prepared.description.value_range else 1.0
    ours = [
        low + np.float64(image) * step for part in prepared.parts.values() for image in part.images
    ]
    assert len(ours) == len(theirs)
    near = step if prepared.description.value_range or name == "UCMerced" else 0.0
    assert all(any(np.abs(mine - their).max() <= near for mine in ours) for their in theirs)


def test_fractions_get_a_range_and_whole_numbers_none(tmp_path: Path) -> None:
    assert made("So2Sat", tmp_path / "a").open().description.value_range
    assert not made("EuroSAT", tmp_path / "b").open().description.value_range
    ranged = made("QuakeSet", tmp_path / "c", value_range=(-1.0, 2.0)).open().description
    assert ranged.value_range == (-1.0, 2.0)
    with pytest.raises(DataError, match="leave value_range out"):
        made("EuroSAT", tmp_path / "d", value_range=(0.0, 1.0)).open()
    with pytest.raises(DataError, match="leave scale out"):
        made("QuakeSet", tmp_path / "e", scale=255.0).open()


def test_the_list_of_data_sets_is_found_in_torchgeo() -> None:
    found = torchgeo.names()
    assert set(KINDS) <= set(found)
    # Segmentation, detection, regression, and series without a picture.
    assert not set(found) & {"LandCoverAI", "VHR10", "TropicalCyclone", "CropHarvest", "LoveDA"}


def test_own_splits_are_kept(tmp_path: Path) -> None:
    data_set = made("UCMerced", tmp_path)
    source = data_set.open()
    assert source.notes["split"] == "torchgeo's"
    for name, split in zip(SPLITS, SHORT, strict=True):
        (first,) = source.splits[name].read(np.array([0]))
        with pillow.open(tmp_path / f"UCMerced_LandUse/Images/field/field{split}.tif") as image:
            small = np.asarray(image)
        assert first.shape == (3, 256, 256)  # torchgeo brings them to one size
        assert abs(float(first.mean()) - float(small.mean())) < 3


def test_random_splits_are_drawn_from_all_parts(tmp_path: Path) -> None:
    own = labels(made("FireRisk", tmp_path / "raw"))
    drawn = labels(DataSet(data_set="FireRisk", root=str(tmp_path / "raw"), splits="random"))
    assert sum(map(len, own.values())) == sum(map(len, drawn.values())) == 24
    assert [len(drawn[name]) for name in SPLITS] != [len(own[name]) for name in SPLITS]


def test_a_missing_validation_part_is_drawn_from_training(tmp_path: Path) -> None:
    source = made("TreeSatAI", tmp_path).open()
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 3,
    }
    assert "a quarter of the training part" in source.notes["split"]


def test_a_missing_test_part_is_the_published_validation_part(tmp_path: Path) -> None:
    source = made("FireRisk", tmp_path).open()
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 9,
        "validation": 3,
        "test": 12,
    }
    assert "validation part is the test part" in source.notes["split"]


def test_several_labels_are_rows_of_0_and_1(tmp_path: Path) -> None:
    data_set = made("BigEarthNet", tmp_path)
    source = data_set.open()
    assert source.description.label_kind == "multi"
    names = source.description.class_names
    assert len(names) == 19
    rows = source.splits["test"].labels
    assert [[names[i] for i in np.flatnonzero(row)] for row in rows] == [
        ["Pastures"],
        ["Pastures", "Inland waters"],
        ["Inland waters"],
    ]


def test_labels_that_come_as_a_list_of_classes_become_rows(tmp_path: Path) -> None:
    source = made("MillionAID", tmp_path, options={"task": "multi-label"}).open()
    names = source.description.class_names
    marked = {tuple(names[i] for i in np.flatnonzero(row)) for row in source.splits["train"].labels}
    assert ("agriculture", "water") in marked
    assert ("road", "transport", "water-road") in marked


def test_files_found_by_a_pattern_are_in_one_order_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import glob

    data_set = made("MillionAID", tmp_path)
    before = labels(data_set)
    straight = glob.glob
    monkeypatch.setattr(glob, "glob", lambda *a, **k: straight(*a, **k)[::-1])
    after = labels(data_set)
    assert all(np.array_equal(before[name], after[name]) for name in SPLITS)


def test_options_reach_the_class_and_name_the_bands(tmp_path: Path) -> None:
    source = made("EuroSAT", tmp_path, options={"bands": ["B08", "B04", "B03"]}).open()
    assert source.description.bands == ("B08", "B04", "B03")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'RESISC45'"):
        DataSet(data_set="RESISC54", root="x").open()


def test_files_that_are_not_there_are_said_and_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match="set download: true, or put the files there"):
        DataSet(data_set="UCMerced", root=str(tmp_path)).open()
    with pytest.raises(ConfigError, match="can't download So2Sat; fetch it by hand"):
        DataSet(data_set="So2Sat", root=str(tmp_path), download=True).open()


def test_a_split_list_that_is_missing_is_no_part_less(tmp_path: Path) -> None:
    data_set = made("UCMerced", tmp_path)
    (tmp_path / "uc_merced-val.txt").unlink()
    with pytest.raises(SourceMissingError, match=r"uc_merced-val\.txt"):
        data_set.open()


def test_an_unknown_option_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option band; it takes bands"):
        made("EuroSAT", tmp_path, options={"band": "all"}).open()
    with pytest.raises(ConfigError, match="set root, download and checksum beside it"):
        DataSet(data_set="EuroSAT", root="x", options={"split": "train"})


def test_two_pictures_in_one_example_want_a_choice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one sensor in options"):
        made("TreeSatAI", tmp_path, options={"sensors": ["s2", "aerial"]}).open()


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    data_set = made("RESISC45", tmp_path)
    (tmp_path / "NWPU-RESISC45/field/field_train.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="can't read example 0 of RESISC45"):
        data_set.open()
