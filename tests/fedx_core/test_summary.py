"""What is said of a data set: counts, ranges, and what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest

from fedx_core.data.base import SPLITS, Source, Split
from fedx_core.images import set_folder
from fedx_core.images.examples import Description, ImageStream
from flows.data import summary
from flows.data.tally import Tally

BANDS = ("B04", "B08")


def tallied(parts: dict[str, tuple[list[np.ndarray], list[int]]], **named: list[str]) -> Tally:
    tally = Tally()
    for part, (images, labels) in parts.items():
        groups = np.zeros(len(labels), np.int16)
        stream = ImageStream(images, np.array(labels), groups, named.get(part, ()))
        list(tally.over(part, stream).images)
    return tally


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, 200, (2, 4, 4), dtype=np.uint8)


def test_the_range_of_each_band_is_that_of_all_images() -> None:
    images = {part: [image(10 * n + k) for k in range(4)] for n, part in enumerate("abc")}
    found = tallied({part: (own, [0] * 4) for part, own in images.items()}).as_plain(BANDS)
    every = np.stack([one for own in images.values() for one in own])
    assert found["bands"] == {
        band: [every[:, place].min(), every[:, place].max()] for place, band in enumerate(BANDS)
    }
    assert found["alike"] == {}


def test_images_with_the_same_pixels_are_found_in_all_parts_with_their_names() -> None:
    found = tallied(
        {
            "train": ([image(0), image(1), image(0)], [0, 1, 0]),
            "test": ([image(1), image(2), image(0)], [1, 0, 1]),
        },
        train=["a.png", "b.png", "c.png"],
    ).as_plain(BANDS)["alike"]
    assert found == {
        "train, train": {"images": 1, "contrary": 0, "example": ["a.png", "c.png"]},
        "train, test": {
            "images": 2,
            "contrary": 1,
            "example": ["b.png", "test 0"],
            "contrary_example": ["a.png", "test 2"],
        },
    }


def test_several_labels_are_compared_as_a_whole() -> None:
    several = np.array([[0, 1], [1, 1]])
    tally = Tally()
    stream = ImageStream([image(0), image(0)], several, np.zeros(2, np.int16))
    list(tally.over("train", stream).images)
    assert tally.as_plain(BANDS)["alike"]["train, train"]["contrary"] == 1


def prepared(
    folder: Path, labels: dict[str, np.ndarray], tally: Tally | None = None, scale: float = 255
) -> Path:
    kind = "multi" if labels["train"].ndim == 2 else "single"
    about = Description(
        name="mine", bands=BANDS, class_names=("field", "sea", "wood"), label_kind=kind,
        image_size=4, scale=scale,
    )  # fmt: skip
    dtype = about.pixel_dtype
    parts = {
        part: ImageStream(
            [image(k).astype(dtype) for k in range(len(own))], own, np.zeros(len(own), np.int16)
        )
        for part, own in labels.items()
    }
    found = (tally or Tally()).as_plain(BANDS)
    settings = {"notes": {"split": "drawn", "images": 40}, "pixels": found}
    set_folder.write(folder / "prepared", about, parts, settings)
    return folder


def test_a_summary_counts_classes_by_part_and_names_those_that_are_not_there(
    tmp_path: Path,
) -> None:
    labels = {
        "train": np.array([0, 0, 1]),
        "validation": np.array([0, 1, 2]),
        "test": np.array([0, 2]),
    }
    found = summary.of_prepared("mine", prepared(tmp_path, labels))
    assert list(found["images"]) == ["train", "validation", "test"]
    assert found["classes"] == [
        {"class": "field", "train": 2, "validation": 1, "test": 1},
        {"class": "sea", "train": 1, "validation": 1, "test": 0},
        {"class": "wood", "train": 0, "validation": 1, "test": 1},
    ]
    assert found["notes"] == ["split: drawn", "limit: 8 of 40 images drawn"]
    assert any(line.startswith("no image of train bears wood") for line in found["wrong"])
    assert any(line.startswith("no image of test bears sea") for line in found["wrong"])
    assert any("there is no shards" in line for line in found["wrong"])


def test_images_without_labels_are_counted_and_a_part_of_nothing_else_is_wrong(
    tmp_path: Path,
) -> None:
    labels = {
        "train": np.array([[1, 1, 1], [0, 0, 0]], np.uint8),
        "validation": np.array([[1, 1, 1]], np.uint8),
        "test": np.zeros((3, 3), np.uint8),
    }
    found = summary.of_prepared("mine", prepared(tmp_path, labels))
    assert found["unlabelled"] == {"train": 1, "validation": 0, "test": 3}
    assert (
        "no image of test bears a label, so no score over labels can be computed of it"
        in (found["wrong"])
    )


def test_classes_that_differ_in_capital_letters_alone_are_said() -> None:
    about = Description(
        name="mine", bands=BANDS, class_names=("Sea", "sea"), label_kind="single", image_size=4,
        scale=255, group_names=("Spain", "SPAIN"),
    )  # fmt: skip
    both = Split(np.arange(2), np.arange(2, dtype=np.int16), lambda _: iter(()))
    found = summary.of_source("mine", Source(about, dict.fromkeys(SPLITS, both)))
    assert [line.partition(" differ")[0] for line in found["wrong"]] == [
        "the classes Sea and sea", "the groups Spain and SPAIN",
    ]  # fmt: skip


def test_twins_across_parts_flat_bands_and_a_wrong_scale_are_wrong(tmp_path: Path) -> None:
    flat = np.full((2, 4, 4), 7, np.uint16)
    tally = tallied({"train": ([flat], [0]), "test": ([flat], [1])})
    labels = {part: np.arange(3) for part in ("train", "validation", "test")}
    wrong = summary.of_prepared("mine", prepared(tmp_path, labels, tally, 10_000))["wrong"]
    assert any("1 images of test have the pixels of an image of train" in line for line in wrong)
    assert any("and other labels (train 0 and test 0 first)" in line for line in wrong)
    assert any(line.startswith("B08 is 7 in all images") for line in wrong)
    assert any("the highest pixel is 7 where 10000 stands for 1; set scale" in w for w in wrong)


@pytest.mark.parametrize("part", ["shards", "reference"])
def test_what_was_made_of_other_images_is_said(tmp_path: Path, part: str) -> None:
    labels = {part: np.arange(3) for part in ("train", "validation", "test")}
    folder = prepared(tmp_path, labels)
    (folder / part).mkdir()
    set_folder.write_manifest(
        folder / part, {"settings": {"prepared": "another"}, "clients": [], "parts": {}}
    )
    wrong = summary.of_prepared("mine", folder)["wrong"]
    assert f"{part} are of other images than prepared; prepare the set again: fedx data mine" in (
        wrong
    )
