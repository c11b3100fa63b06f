"""Images with a mask each: how they are paired, what masks may hold, and what becomes of them."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image as Picture

from bed import tiny
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.data import folder
from fedx_core.data.base import Source
from fedx_core.images import set_folder
from flows.data import describe, summary
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from flows.report.preview import preview

SIDE = 8
NAMES = ("water", "wood", "town")


def mask_of(number: int, side: int = SIDE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two classes side by side, and one pixel that nobody knows."""
    found = np.full((side, side), number % 3, np.uint8)
    found[:, side // 2 :] = (number + 1) % 3
    found[0, 0] = 255
    return found


def draw(place: Path, *names: str, masks: str = "masks", ending: str = ".png") -> None:
    for number, name in enumerate(names):
        image = place / name
        image.parent.mkdir(parents=True, exist_ok=True)
        found = mask_of(number)
        colours = np.array([[0, 0, 200], [0, 200, 0], [200, 0, 0]], np.uint8)
        Picture.fromarray(colours[found % 3] + np.uint8(number % 50)).save(image)
        mask = place / name.replace("images", masks, 1)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(found).save(mask.with_suffix(ending))


def opened(place: Path, **more: Any) -> Source:
    values = {"masks": "masks", "class_names": NAMES, **more}
    return folder.DataSet(source=str(place), **values).found()


def numbered(count: int, before: str = "images/") -> list[str]:
    return [f"{before}{n:02d}.png" for n in range(count)]


def test_a_mask_is_found_by_its_images_name_and_says_each_pixels_class(tmp_path: Path) -> None:
    names = numbered(30)
    draw(tmp_path, *names)
    source = opened(tmp_path)
    about = source.description
    assert (about.label_kind, about.class_names, about.image_size) == ("pixels", NAMES, SIDE)
    seen = []
    for split in source.splits.values():
        assert split.labels.dtype == np.uint8
        for name, label_map in zip(split.names, split.labels, strict=True):
            np.testing.assert_array_equal(label_map, mask_of(names.index(name)))
            seen.append(name)
        images = list(split.read(np.arange(len(split))))
        assert len(images) == len(split)
    assert sorted(seen) == names
    assert [len(source.splits[s]) for s in ("train", "validation", "test")] == [18, 6, 6]


@pytest.mark.parametrize(
    ("before", "masks"),
    [
        ("images/", "images/"), ("images/a/b/", "images/"), ("a/images/b/", "images/"),
        ("plain/", ""),
    ],
)  # fmt: skip
def test_masks_may_lie_at_any_depth_and_beside_images_of_any_folder(
    before: str, masks: str, tmp_path: Path
) -> None:
    names = numbered(10, before)
    draw(tmp_path, *names)
    if not masks:
        (tmp_path / "masks").mkdir()
        for name in names:
            picture = Picture.fromarray(mask_of(names.index(name)))
            picture.save(tmp_path / "masks" / Path(name).name)
    source = opened(tmp_path)
    assert sum(len(split) for split in source.splits.values()) == 10


def test_folders_of_splits_may_lie_above_or_below(tmp_path: Path) -> None:
    for place, pattern in (("below", "images/{}/1.png"), ("above", "{}/images/1.png")):
        draw(tmp_path / place, *(pattern.format(split) for split in ("train", "val", "test")))
        found = opened(tmp_path / place).splits
        assert {name: list(split.names) for name, split in found.items()} == {
            "train": [pattern.format("train")],
            "validation": [pattern.format("val")],
            "test": [pattern.format("test")],
        }


def test_a_palettes_numbers_and_a_tiffs_bytes_are_classes_and_nodata_is_none(
    tmp_path: Path,
) -> None:
    names = numbered(12)
    draw(tmp_path, *names)
    for number, name in enumerate(names):
        path = tmp_path / name.replace("images", "masks")
        found = mask_of(number)
        if number % 2:
            picture = Picture.fromarray(found, "P")
            picture.putpalette([*range(256)] * 3)
            picture.save(path)
        else:
            path.unlink()
            found[0, 0] = 9
            with rasterio.open(
                path.with_suffix(".tif"), "w", driver="GTiff", height=SIDE, width=SIDE, count=1,
                dtype="uint8", nodata=9, transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
            ) as file:  # fmt: skip
                file.write(found, 1)
    for split in opened(tmp_path).splits.values():
        for name, label_map in zip(split.names, split.labels, strict=True):
            np.testing.assert_array_equal(label_map, mask_of(names.index(name)))


def test_resizing_takes_nearest_values_and_never_mixes_classes(tmp_path: Path) -> None:
    draw(tmp_path, *numbered(10))
    source = opened(tmp_path, image_size=4)
    for split in source.splits.values():
        assert split.labels.shape[1:] == (4, 4)
        for name, label_map in zip(split.names, split.labels, strict=True):
            whole = mask_of(int(Path(name).stem))
            np.testing.assert_array_equal(label_map, whole[1::2, 1::2])
        assert all(image.shape == (3, 4, 4) for image in split.read(np.arange(len(split))))


def test_a_zip_holds_masks_as_a_folder_does(tmp_path: Path) -> None:
    draw(tmp_path / "all", *numbered(10))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted((tmp_path / "all").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "all"))
    for one, other in zip(
        opened(tmp_path / "all").splits.values(),
        opened(tmp_path / "all.zip").splits.values(),
        strict=True,
    ):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_images_with_masks_can_be_learned_from_without_labels(tmp_path: Path) -> None:
    draw(tmp_path, *numbered(10))
    source = opened(tmp_path, labels="none")
    assert source.description.class_names == ("unlabelled",)
    assert sum(len(split) for split in source.splits.values()) == 10


def settings_for(place: Path) -> Any:
    source = {"name": "folder", "source": str(place), "masks": "masks", "class_names": list(NAMES)}
    return tiny(
        dataset="fields",
        datasets__fields={
            "source": source, "partition": {"name": "dirichlet", "clients": 2, "alpha": 1.0},
            "reference": {"per_class": 2},
        },
    )  # fmt: skip


def test_prepared_masks_go_with_their_images_to_clients_and_server(tmp_path: Path) -> None:
    names = numbered(60)
    draw(tmp_path / "fields", *names)
    Picture.fromarray(mask_of(0)).save(tmp_path / "fields/masks/more.png")
    settings = settings_for(tmp_path / "fields")
    root = tmp_path / "data"
    folders = [stage(settings, "fields", root) for stage in (prepare, partition, reference)]
    sets = [set_folder.read(folders[0]), set_folder.read(folders[2])]
    sets += [set_folder.read(folders[1] / name) for name in ("client-00", "client-01")]
    count = 0
    set_folder.verify(folders[0])
    for prepared in sets:
        for part in prepared.parts.values():
            assert isinstance(part.labels, np.memmap)
            for image, label_map in zip(part.images, part.labels, strict=True):
                # An image's colours say its classes.
                known = label_map != 255
                np.testing.assert_array_equal(image[[2, 1, 0]].argmax(0)[known], label_map[known])
                count += 1
    assert count == 60 + 12 + 48
    manifest = set_folder.read_manifest(folders[1])
    counted = [np.array(client["labels"]["train"]) for client in manifest["clients"]]
    assert sum(counts.sum() for counts in counted) == 2 * len(sets[0].parts["train"])
    said = "\n".join(describe.lines(summary.of_prepared("fields", root / "fields")))
    assert "3 classes, one for each pixel" in said
    assert "ignored: 1 masks without an image" in said
    assert len(list(preview("fields", root).glob("*.png"))) == 3


def spoil(place: Path, what: str) -> None:
    mask = place / "masks/03.png"
    match what:
        case "size":
            Picture.fromarray(mask_of(3, 16)).save(mask)
        case "value":
            Picture.fromarray(mask_of(3) + np.uint8(3)).save(mask)
        case "colours":
            Picture.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(mask)
        case "wide":
            Picture.fromarray(np.full((SIDE, SIDE), 300, np.uint16)).save(mask)
        case "missing":
            mask.unlink()
        case "jpeg":
            mask.unlink()
            Picture.fromarray(mask_of(3)).save(mask.with_suffix(".jpg"))
        case "twins":
            Picture.fromarray(mask_of(3)).save(mask.with_suffix(".tif"))
        case "text":
            mask.write_text("no image")
        case "depths":
            (place / "a/b/masks").mkdir(parents=True)
            mask.rename(place / "a/b/masks/03.png")
        case "alone":
            for path in (place / "images").iterdir():
                path.unlink()
        case "link":
            mask.rename(place.parent / "outside.png")
            mask.symlink_to(place.parent / "outside.png")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("size", r"masks/03.png has 16 x 16 pixels; masks must be square and of one size"),
        ("value", r"masks/03.png holds the value 4, and class_names names 3 classes, 0 to 2 \(255"),
        ("colours", r"masks/03.png has 3 band\(s\) of uint8, and a mask one of whole numbers"),
        ("wide", r"masks/03.png holds values from 300 to 300, and those of a mask are 0 to 255"),
        ("missing", r"images/03.png has no mask; add masks/03.png or .tif, or take the image out"),
        ("jpeg", r"masks/03.jpg is a JPEG, which changes values; save masks as PNG or TIFF"),
        ("twins", r"masks/03.png and masks/03.tif have one name, so it is not clear which"),
        ("text", r"masks/03.png does not decode"),
        ("depths", r"folders named 'masks' lie at different depths"),
        ("alone", r"has 10 masks in folders named 'masks' and 0 images beside them"),
        ("link", r"masks/03.png is a link to .*outside.png, outside"),
    ],
)
def test_masks_that_do_not_fit_are_refused_with_what_to_do(
    what: str, message: str, tmp_path: Path
) -> None:
    place = tmp_path / "fields"
    draw(place, *numbered(10))
    spoil(place, what)
    with pytest.raises(DataError, match=message):
        opened(place)


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("resized", [False, True])
def test_an_image_of_another_size_than_its_mask_is_refused(
    number: int, resized: bool, tmp_path: Path
) -> None:
    draw(tmp_path, *numbered(10))
    path = tmp_path / f"images/{number:02d}.png"
    Picture.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)

    def read() -> None:
        for split in opened(tmp_path, image_size=4 if resized else 0).splits.values():
            list(split.read(np.arange(len(split))))

    with pytest.raises(DataError, match=re.escape(f"{number:02d}.png has 16 x 16 pixels")):
        read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ()}, r"class_names must name what the masks' values 0, 1, ... stand for"),
        ({"class_names": ("a", "a ")}, r"2 to 255 different names, got \['a', 'a '\]"),
        ({"class_names": tuple(map(str, range(256)))}, r"2 to 255 different names"),
        ({"labels": "labels.csv"}, r"masks hold the labels, and labels is 'labels.csv'"),
        ({"masks": "a/masks"}, r"masks must be the name of one folder in the source"),
        ({"masks": ""}, r"class_names names values of masks; set masks, or leave it out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, **settings)
