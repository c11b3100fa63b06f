import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pillow

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.data import eurosat
from fedx_core.data.eurosat import ALL_BANDS, CLASS_NAMES, DataSet
from fedx_core.images import moments, set_folder

Shared = Callable[[str], Path]

# Counted in the 27,000 JPEGs.
COUNTS = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    pillow.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tiny_zip(path: Path, per_class: int = 5, prefix: str = "2750/") -> Path:
    """Make a zip that is laid out as the released one, with a few drawn images."""
    with zipfile.ZipFile(path, "w") as archive:
        for label, name in enumerate(CLASS_NAMES):
            for number in range(1, per_class + 1):
                archive.writestr(f"{prefix}{name}/{name}_{number}.jpg", jpeg(10 * label + number))
    return path


def tiny_lists(folder: Path, per_class: int = 5) -> Path:
    """Put images 1 to 3 of each class into training, 4 into validation, 5 into test."""
    folder.mkdir()
    for short, numbers in (("train", (1, 2, 3)), ("val", (4,)), ("test", (per_class,))):
        lines = [f"{c}/{c}_{n}.jpg,{c}\n" for n in numbers for c in CLASS_NAMES]
        (folder / f"eurosat_{short}.csv").write_text("".join(lines))
    return folder


def images(data_set: DataSet) -> dict[str, NDArray[np.integer]]:
    streams = data_set.streams(data_set.open())
    return {name: np.stack(list(stream.images)) for name, stream in streams.items()}


def test_a_zip_and_its_unpacked_folder_give_the_same_images(tmp_path: Path) -> None:
    path = tiny_zip(tmp_path / "EuroSAT.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    zipped = images(DataSet(source=str(path)))
    unpacked = images(DataSet(source=str(tmp_path / "unpacked")))
    for name, found in zipped.items():
        assert np.array_equal(found, unpacked[name])


def test_images_are_the_decoded_jpegs_with_bands_first(tmp_path: Path) -> None:
    tiny_lists(tmp_path / "eurosat_split")
    source = DataSet(source=str(tiny_zip(tmp_path / "EuroSAT.zip"))).open()
    # Image 4 of class 6 is the seventh of validation.
    (found,) = source.splits["validation"].read(np.array([6]))
    wanted = np.asarray(pillow.open(io.BytesIO(jpeg(64))).convert("RGB"))
    assert found.shape == (3, 64, 64)
    for band in range(3):
        assert np.array_equal(found[band], wanted[:, :, band])


def test_lists_beside_the_source_decide_the_splits(tmp_path: Path) -> None:
    tiny_lists(tmp_path / "eurosat_split")
    source = DataSet(source=str(tiny_zip(tmp_path / "EuroSAT.zip"))).open()
    assert [len(source.splits[name]) for name in ("train", "validation", "test")] == [30, 10, 10]
    assert source.notes["split"] == "lists in eurosat_split"


def test_without_lists_splits_are_drawn_class_by_class_and_say_so(tmp_path: Path) -> None:
    path = tiny_zip(tmp_path / "EuroSAT.zip")
    source = DataSet(source=str(path)).open()
    assert source.notes["split"] == "drawn 60/20/20, class by class"
    for name, count in (("train", 3), ("validation", 1), ("test", 1)):
        assert np.bincount(source.splits[name].labels).tolist() == [count] * 10
    every = np.concatenate(list(images(DataSet(source=str(path))).values()))
    assert len(np.unique(every, axis=0)) == 50
    other = images(DataSet(source=str(path), seed=1))["test"]
    assert not np.array_equal(other, images(DataSet(source=str(path)))["test"])


def test_an_image_of_a_list_that_is_not_there_is_an_error_or_skipped(tmp_path: Path) -> None:
    lists = tiny_lists(tmp_path / "lists", per_class=6)
    path = tiny_zip(tmp_path / "EuroSAT.zip")
    with pytest.raises(SourceMissingError, match=r"10 of 10 images of the test list are not in"):
        DataSet(source=str(path), splits=str(lists)).open()
    source = DataSet(source=str(path), splits=str(lists), missing="skip").open()
    assert len(source.splits["test"]) == 0
    assert source.notes["split"] == "lists in lists, 10 skipped"
    with pytest.raises(DataError, match="the test split of EuroSAT has no images"):
        DataSet(source=str(path)).streams(source)


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    path = tiny_zip(tmp_path / "EuroSAT.zip", per_class=4)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("2750/River/River_5.jpg", jpeg(0)[:500])
    with pytest.raises(DataError, match=r"River_5.jpg does not decode .*replace the file"):
        images(DataSet(source=str(path)))


def test_a_cut_off_zip_is_an_error(tmp_path: Path) -> None:
    path = tiny_zip(tmp_path / "EuroSAT.zip")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"not a whole zip file .* fetch it again"):
        DataSet(source=str(path)).open()


def test_a_missing_source_says_where_it_looked_and_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDX_SHARED_DATA", "elsewhere")
    with pytest.raises(SourceMissingError) as caught:
        DataSet().open()
    message = str(caught.value)
    for part in ("elsewhere/eurosat_rgb.zip or data/raw/eurosat", "94 MB", "download=True"):
        assert part in message


def test_auto_finds_the_raw_folder_and_names_no_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDX_SHARED_DATA", str(tmp_path / "elsewhere"))
    with zipfile.ZipFile(tiny_zip(tmp_path / "EuroSAT.zip")) as archive:
        archive.extractall(tmp_path / "data" / "raw" / "eurosat")
    source = DataSet().open()
    assert sum(len(split) for split in source.splits.values()) == 50
    assert source.description.source == "auto: eurosat"


def test_a_class_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Forest").mkdir()
    (tmp_path / "Forest" / "Forest_1.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError, match=r"no .jpg images of AnnualCrop, .*one folder a class"):
        DataSet(source=str(tmp_path)).open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": "infrared"}, "bands must be rgb or all"),
        ({"missing": "ignore"}, "missing must be error or skip"),
        ({"source": "download", "bands": "all"}, "torchvision has the RGB images only"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSet(**changes)


def test_the_published_lists_hold_all_27000_images_once(shared: Shared) -> None:
    shared("eurosat_split")
    source = DataSet(source=str(shared("eurosat_rgb.zip"))).open()
    sizes = {name: len(split) for name, split in source.splits.items()}
    assert sizes == {"train": 16_200, "validation": 5_400, "test": 5_400}
    every = np.concatenate([split.labels for split in source.splits.values()])
    assert np.bincount(every).tolist() == COUNTS


def test_a_limited_eurosat_is_prepared_with_statistics_near_the_published(
    shared: Shared, tmp_path: Path
) -> None:
    data_set = DataSet(source=str(shared("eurosat_rgb.zip")), limit=1000)
    source = data_set.open()
    set_folder.write(tmp_path / "set", source.description, data_set.streams(source), {})
    prepared = set_folder.read(tmp_path / "set")
    assert {name: len(part) for name, part in prepared.parts.items()} == {
        "train": 600,
        "validation": 200,
        "test": 200,
    }
    mean, std = moments.mean_and_std(moments.measure(prepared.parts["train"], 255.0))
    np.testing.assert_allclose(mean, eurosat.RGB_MEAN, atol=0.02)
    # The mean of the images' own deviations (0.0914, 0.0651, 0.0552) is far off.
    np.testing.assert_allclose(std, eurosat.RGB_STD, atol=0.02)


def test_geotiffs_have_thirteen_bands_with_b8a_last(shared: Shared) -> None:
    data_set = DataSet(
        source=str(shared("eurosat_ms270.zip")), bands="all", missing="skip", limit=100
    )
    source = data_set.open()
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 159,
        "validation": 51,
        "test": 60,
    }
    assert source.description.bands == ALL_BANDS
    assert ALL_BANDS[-1] == "B8A"
    assert ALL_BANDS[8] == "B09"
    found = np.stack(list(data_set.streams(source)["train"].images)).astype(np.float64)
    assert found.shape[1:] == (13, 64, 64)
    means = dict(zip(ALL_BANDS, found.mean(axis=(0, 2, 3)), strict=True))
    # B8A lies beside B08 in wavelength; were it B8A at place 9, B09 would be as bright.
    assert means["B8A"] == pytest.approx(2594, rel=0.15)
    assert means["B09"] == pytest.approx(732, rel=0.15)
    assert means["B10"] == pytest.approx(12, rel=0.3)
    np.testing.assert_allclose(list(means.values()), eurosat.ALL_MEAN, rtol=0.3)
