import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image as pillow

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.data.base import Source
from fedx_core.data.folder import DataSet
from fedx_core.images import set_folder


def pixels(seed: int, bands: int = 3, side: int = 8, dtype: type = np.uint8) -> NDArray[np.integer]:
    top = 256 if dtype is np.uint8 else 10_000
    return np.random.default_rng(seed).integers(0, top, (bands, side, side)).astype(dtype)


def png(image: NDArray[np.integer]) -> bytes:
    buffer = io.BytesIO()
    picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    pillow.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def tiff(image: NDArray[np.generic]) -> bytes:
    bands, height, width = image.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=width,
            height=height,
            count=bands,
            dtype=image.dtype,
            transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        ) as file:
            file.write(image)
        return bytes(memory.read())


def read_all(source: Source) -> None:
    for split in source.splits.values():
        list(split.read(np.arange(len(split))))


def two_classes(folder: Path, each: int = 10) -> None:
    for label, name in enumerate(("field", "wood")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            (folder / name / f"{number}.png").write_bytes(png(pixels(100 * label + number)))


def with_table(folder: Path, table: str, count: int = 5) -> DataSet:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(pixels(number)))
    (folder / "labels.csv").write_text(table)
    return DataSet(source=str(folder), labels="labels.csv")


def test_one_folder_a_class_becomes_a_prepared_set(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine")
    data_set = DataSet(source=str(tmp_path / "mine"))
    source = data_set.open()
    assert source.description.class_names == ("field", "wood")
    assert source.notes["split"] == "drawn 60/20/20, class by class"
    set_folder.write(tmp_path / "set", source.description, data_set.streams(source), {})
    parts = set_folder.read(tmp_path / "set").parts
    assert {name: np.bincount(part.labels).tolist() for name, part in parts.items()} == {
        "train": [6, 6],
        "validation": [2, 2],
        "test": [2, 2],
    }
    # Every file is in exactly one split, with its own label.
    found = {
        image.tobytes(): int(label)
        for part in parts.values()
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert found == {pixels(100 * c + n).tobytes(): c for c in (0, 1) for n in range(10)}


def test_a_zip_is_read_like_a_folder(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for path in (tmp_path / "mine").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "mine"))
    folder, zipped = (
        DataSet(source=str(tmp_path / name)).open().splits["train"] for name in ("mine", "mine.zip")
    )
    assert np.array_equal(folder.labels, zipped.labels)
    everything = np.arange(len(folder))
    for one, other in zip(folder.read(everything), zipped.read(everything), strict=True):
        assert np.array_equal(one, other)


def test_a_table_gives_several_labels_splits_and_groups(tmp_path: Path) -> None:
    data_set = with_table(
        tmp_path / "mine",
        "file,forest,water,split,group\n"
        "0.png,1,0,train,Sweden\n"
        "1.png,1,1,train,Austria\n"
        "2.png,0,1,validation,Austria\n"
        "3.png,0,0,test,Sweden\n",
    )
    source = data_set.open()
    assert source.description.label_kind == "multi"
    assert source.description.class_names == ("forest", "water")
    assert source.description.group_names == ("Austria", "Sweden")
    train = source.splits["train"]
    assert train.labels.tolist() == [[1, 0], [1, 1]]
    assert train.groups.tolist() == [1, 0]
    assert source.splits["test"].labels.tolist() == [[0, 0]]
    (found,) = source.splits["validation"].read(np.array([0]))
    assert np.array_equal(found, pixels(2))
    assert source.notes["split"] == "column split of labels.csv"


def test_a_table_with_one_label_column_and_a_byte_order_mark(tmp_path: Path) -> None:
    rows = "".join(f'{i}.png,"{"wood, old" if i % 2 else "field"}"\n' for i in range(5))
    data_set = with_table(tmp_path / "mine", "\ufefffile,label\n" + rows)
    source = data_set.open()
    assert source.description.label_kind == "single"
    assert source.description.class_names == ("field", "wood, old")


def test_multi_band_tiffs_keep_their_bands_and_sixteen_bits(tmp_path: Path) -> None:
    for label, name in enumerate(("field", "wood")):
        (tmp_path / name).mkdir()
        for number in range(5):
            image = pixels(10 * label + number, bands=7, dtype=np.uint16)
            (tmp_path / name / f"{number}.tif").write_bytes(tiff(image))
    source = DataSet(source=str(tmp_path)).open()
    assert source.description.bands == tuple(f"band-{i}" for i in range(1, 8))
    assert source.description.scale == 10_000
    (found,) = source.splits["test"].read(np.array([0]))
    assert found.shape == (7, 8, 8)
    assert found.dtype == np.uint16


def test_sixteen_bit_pngs_of_one_band_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            image = pixels(number, bands=1, dtype=np.uint16)
            (tmp_path / name / f"{number}.png").write_bytes(png(image))
    split = DataSet(source=str(tmp_path), band_names=("radar",)).open().splits["train"]
    (found,) = split.read(np.array([0]))
    assert found.dtype == np.uint16
    assert any(np.array_equal(found, pixels(n, 1, 8, np.uint16)) for n in range(5))


def test_image_size_resizes_and_keeps_flat_colours(tmp_path: Path) -> None:
    for value, name in ((40, "a"), (200, "b")):
        (tmp_path / name).mkdir()
        for number in range(5):
            image = np.full((3, 6 + number, 9), value, np.uint8)
            (tmp_path / name / f"{number}.png").write_bytes(png(image))
    source = DataSet(source=str(tmp_path), image_size=4).open()
    for split in source.splits.values():
        for image, label in zip(split.read(np.arange(len(split))), split.labels, strict=True):
            assert image.shape == (3, 4, 4)
            assert (image == (40, 200)[label]).all()


def test_halving_an_image_averages_its_pixels(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            # Rows alternate between 0 and 100.
            image = np.zeros((3, 8, 8), np.uint8)
            image[:, ::2] = 100
            (tmp_path / name / f"{number}.png").write_bytes(png(image))
    (found,) = (
        DataSet(source=str(tmp_path), image_size=4).open().splits["train"].read(np.array([0]))
    )
    # Away from the border, a pixel weighs two rows of each kind equally.
    assert (found[:, 1:3] == 50).all()


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "wood" / "9.png").write_bytes(png(pixels(0, side=12)))
    source = DataSet(source=str(tmp_path)).open()
    with pytest.raises(DataError, match=r"wood/9.png has 12 x 12 pixels, .* set image_size"):
        read_all(source)


def test_an_image_with_other_bands_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "wood" / "9.png").write_bytes(png(pixels(0, bands=1)))
    source = DataSet(source=str(tmp_path)).open()
    with pytest.raises(DataError, match=r"wood/9.png has 1 bands, the first image has 3"):
        read_all(source)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize(
    "payload", [b"", b"not an image", png(pixels(1))[:60], tiff(pixels(1))[:-9]]
)
def test_an_image_that_does_not_decode_is_named(
    tmp_path: Path, ending: str, payload: bytes
) -> None:
    two_classes(tmp_path)
    (tmp_path / "wood" / f"broken.{ending}").write_bytes(payload)
    source = DataSet(source=str(tmp_path)).open()
    with pytest.raises(DataError, match=rf"wood/broken.{ending} does not decode .*replace"):
        read_all(source)


def test_an_image_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    data_set = with_table(tmp_path, "file,label\n0.png,a\n1.png,b\n2.png,b\n")
    source = data_set.open()
    (tmp_path / "1.png").unlink()
    (tmp_path / "1.png").mkdir()
    with pytest.raises(DataError, match=r"1.png in .* can't be read"):
        read_all(source)


def test_images_that_are_not_square_need_a_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(np.zeros((3, 8, 9), np.uint8)))
    with pytest.raises(DataError, match=r"a/0.png has 9 x 8 pixels; .*set image_size"):
        DataSet(source=str(tmp_path)).open()


def test_a_folder_without_images_or_with_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted one folder per class"):
        DataSet(source=str(tmp_path)).open()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "0.png").write_bytes(png(pixels(0)))
    with pytest.raises(DataError, match=r"has 1 class, wanted two or more"):
        DataSet(source=str(tmp_path)).open()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match=r"no images at .*absent"):
        DataSet(source=str(tmp_path / "absent")).open()


def test_a_class_too_small_for_three_splits_is_an_error(tmp_path: Path) -> None:
    two_classes(tmp_path, each=1)
    data_set = DataSet(source=str(tmp_path))
    with pytest.raises(DataError, match=r"the validation split of .* has no images"):
        data_set.streams(data_set.open())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "has 0 rows and the columns none; wanted a row per image"),
        ("file,label\n", "has 0 rows"),
        ("file,a,a\n0.png,0,1\n", "the columns file, a, a; wanted"),
        (
            "name,label\nabsent,a\n",
            "name, label; wanted a row per image, a column 'file'",
        ),
        ("file,a,b\n0.png,1,2\n", "line 2: b is '2', wanted 0 or 1"),
        ("file,a,b\n0.png,1,\n", "line 2: b is '', wanted 0 or 1"),
        ("file,a,b\n0.png,1\n", "line 2: wanted 3 fields"),
        ("file,label\n0.png,a,b\n", "line 2: wanted 2 fields"),
        ("file,label\n0.png,a\n0.png,b\n", "names 0.png twice"),
        ("file,label,split\n0.png,a,vol\n", "split 'vol'; wanted one of train, validation, test"),
        ("file,label\n0.png,a\nabsent.png,b\n", "1 of 2 images .* not in .*, absent.png first"),
        ("file,label\n0.png,a\n1.png,a\n", "1 class, wanted two or more"),
        ('file,label\n"0.png,a\n', "no CSV file"),
    ],
)
def test_a_table_that_can_not_be_used_says_where_it_is_wrong(
    tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        with_table(tmp_path / "mine", table).open()


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    data_set = with_table(tmp_path, "file,label\n")
    (tmp_path / "labels.csv").write_bytes("file,label\n0.png,Äcker\n".encode("latin-1"))
    with pytest.raises(DataError, match="no CSV file in UTF-8"):
        data_set.open()


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match=r"no labels at .*absent.csv or absent.csv"):
        DataSet(source=str(tmp_path), labels="absent.csv").open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": -1}, "image_size must be 0"),
        ({"scale": -1.0}, "scale must be 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSet(source="mine", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 10_000.0}, "uint8 pixels, which scale 10000 does not fit"),
        ({"band_names": ("red", "green")}, "has 3 bands, but band_names names 2"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    two_classes(tmp_path)
    with pytest.raises(DataError, match=message):
        DataSet(source=str(tmp_path), **changes).open()


def test_a_class_whose_folder_is_a_link_is_read_like_the_others(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine")
    two_classes(tmp_path / "elsewhere")
    (tmp_path / "mine" / "town").symlink_to(tmp_path / "elsewhere" / "field")
    (tmp_path / "mine" / "field" / "back").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "wood" / "round").symlink_to(tmp_path / "mine" / "wood")
    source = DataSet(source=str(tmp_path / "mine"), outside=True).open()
    assert source.description.class_names == ("field", "town", "wood")
    assert sum(len(split) for split in source.splits.values()) == 30


@pytest.mark.parametrize("name", ["town", "field/more.png"])
def test_a_link_that_leaves_the_source_is_named_and_refused(tmp_path: Path, name: str) -> None:
    two_classes(tmp_path / "mine")
    two_classes(tmp_path / "elsewhere")
    there = tmp_path / "elsewhere" / "field"
    link = tmp_path / "mine" / name
    link.symlink_to(next(there.iterdir()) if link.suffix else there)
    with pytest.raises(DataError, match=rf"{link} is a link to .*elsewhere.*outside: true"):
        DataSet(source=str(tmp_path / "mine")).open()
    assert DataSet(source=str(tmp_path / "mine"), outside=True).open()


def test_a_source_that_is_a_link_itself_is_read(tmp_path: Path) -> None:
    two_classes(tmp_path / "mine")
    (tmp_path / "here").symlink_to(tmp_path / "mine")
    assert DataSet(source=str(tmp_path / "here")).open()
