"""Folders of classes and of splits, and what else lies in them."""

import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from fedx_core.base.errors import DataError
from fedx_core.data.base import Source
from fedx_core.data.folder import DataSet


def classes(folder: Path, names: tuple[str, ...] = ("a", "b"), each: int = 10) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            colour = hash((str(folder), name, number)) % 256
            pixels = np.full((8, 8, 3), colour, np.uint8)
            pillow.fromarray(pixels).save(folder / name / f"{number}.png")


def opened(folder: Path) -> Source:
    return DataSet(source=str(folder)).open()


def sizes(source: Source) -> list[int]:
    return [len(split) for split in source.splits.values()]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation", "TEST")])
@pytest.mark.parametrize("above", ["", "images/rgb"])
def test_folders_of_splits_are_the_splits(
    tmp_path: Path, names: tuple[str, ...], above: str
) -> None:
    for name, each in zip(names, (10, 4, 3), strict=True):
        classes(tmp_path / above / name, each=each)
    source = opened(tmp_path)
    assert sizes(source) == [20, 8, 6]
    assert source.description.class_names == ("a", "b")
    assert all(name in source.notes["split"] for name in names)


def test_folders_of_splits_may_lie_below_those_of_classes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        classes(tmp_path / name, ("train", "valid", "test"), each=3)
    (tmp_path / "c").mkdir()
    source = opened(tmp_path)
    assert sizes(source) == [6, 6, 6]
    assert source.description.class_names == ("a", "b")
    assert source.notes["empty"] == "no image in c"


def test_folders_of_splits_in_a_zip_are_the_splits(tmp_path: Path) -> None:
    for name, each in (("train", 5), ("val", 2), ("test", 1)):
        classes(tmp_path / "mine" / name, each=each)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for path in (tmp_path / "mine").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    assert sizes(opened(tmp_path / "mine.zip")) == [10, 4, 2]


def test_a_split_without_a_folder_is_drawn_from_train_and_said(tmp_path: Path) -> None:
    classes(tmp_path / "train", each=20)
    classes(tmp_path / "test", each=7)
    source = opened(tmp_path)
    assert sizes(source) == [30, 10, 14]
    assert "validation (10 images) drawn from train" in source.notes["split"]


def test_folders_of_splits_without_train_are_refused(tmp_path: Path) -> None:
    classes(tmp_path / "val")
    classes(tmp_path / "test")
    with pytest.raises(DataError, match="split folders test, val and none to train on; add"):
        opened(tmp_path)


def test_images_beside_the_folders_of_splits_are_refused(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        classes(tmp_path / name)
    with pytest.raises(DataError, match="folders for splits, and images beside them in extra; mo"):
        opened(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    classes(tmp_path, ("bus", "car", "train"))
    source = opened(tmp_path)
    assert source.description.class_names == ("bus", "car", "train")
    assert sizes(source) == [18, 6, 6]


def test_images_in_a_split_but_in_no_class_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, ("train", "test"))
    with pytest.raises(DataError, match=r"test/0.png lies in a split's folder but in no class's"):
        opened(tmp_path)


def test_classes_of_one_name_in_several_folders_are_joined_and_said(tmp_path: Path) -> None:
    classes(tmp_path / "2023", ("forest", "sea"))
    classes(tmp_path / "2024", ("forest", "town"))
    source = opened(tmp_path)
    assert source.description.class_names == ("forest", "sea", "town")
    assert source.notes["joined"] == "classes of one name in the folders 2023, 2024"


def test_folders_of_classes_at_different_depths_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, ("forest", "sea"))
    classes(tmp_path / "forest", ("2023",))
    with pytest.raises(DataError, match=r"forest/0.png and forest/2023/0.png lie at different"):
        opened(tmp_path)


def test_folders_whose_names_are_composed_otherwise_are_one_class(tmp_path: Path) -> None:
    classes(tmp_path / "x", (unicodedata.normalize("NFC", "Äcker"), "sea"))
    classes(tmp_path / "y", (unicodedata.normalize("NFD", "Äcker"), "sea"))
    assert opened(tmp_path).description.class_names == ("sea", "Äcker")


def test_what_is_not_read_is_counted_in_a_sentence(tmp_path: Path) -> None:
    classes(tmp_path, ("a", "b", "c"))
    for name in (
        "a/1.bmp", "a/2.bmp", "b/3.webp", "a/._0.png", "a/Thumbs.db", "__MACOSX/a/0.png",
        ".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", "README", "notes.txt",
        "overview.png", "d/4.webp",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "e").mkdir()
    source = opened(tmp_path)
    assert sum(sizes(source)) == 30
    assert source.description.class_names == ("a", "b", "c")
    assert source.notes["ignored"] == (
        "files 2 .bmp, 1 .txt, 2 .webp, 5 hidden or of the system, 1 in no class folder, "
        "1 linked to nothing, 1 without an ending"
    )
    assert source.notes["empty"] == "no image in d, e"


def test_a_folder_of_images_that_are_not_read_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.webp").write_bytes(b"")
    with pytest.raises(DataError, match=r"wanted one folder per class .*; found files 1 .webp"):
        opened(tmp_path)


@pytest.mark.parametrize("folder", [False, True])
def test_one_image_under_two_names_is_refused(tmp_path: Path, folder: bool) -> None:
    classes(tmp_path)
    if folder:
        (tmp_path / "c").symlink_to(tmp_path / "a")
    else:
        (tmp_path / "b" / "again.png").symlink_to(tmp_path / "a" / "0.png")
    with pytest.raises(DataError, match=r"a/0.png and (b/again|c/0).png are one file \(a link\)"):
        opened(tmp_path)


def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    classes(tmp_path)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    assert sum(sizes(opened(tmp_path))) == 20
