import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bed import Bed
from fedx_core.base.errors import DataError
from fedx_core.images import set_folder, set_manifest

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def changed(tmp_path: Path, bed: Bed) -> Callable[[str, Change], Path]:
    """Writes a manifest of the bed anew, with something else in it."""

    def write(part: str, change: Change) -> Path:
        manifest = set_folder.read_manifest(bed.data / "synthetic" / part)
        change(manifest)
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / "set"

    return write


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["clients"][0].update(name="../../etc"), "can't be the name of a file"),
        (lambda m: m["clients"][0].update(name=".."), "can't be the name of a file"),
        (lambda m: m["clients"][0].update(name="x" * 300), "1 to 255 characters"),
        (lambda m: m["clients"][0].update(name=7), "1 to 255 characters"),
        (lambda m: m["clients"].append(m["clients"][0]), "two clients have the same name"),
        (lambda m: m["clients"][0]["sizes"].update(train=-1), "number of train images"),
        (lambda m: m["clients"][0]["sizes"].update(train=1.5), "number of train images"),
        (lambda m: m["clients"][0]["sizes"].update(train=True), "number of train images"),
        (lambda m: m["clients"][0]["sizes"].update(train=1 << 60), "number of train images"),
        (lambda m: m["clients"][0].pop("sizes"), "number of train images"),
        (lambda m: m.update(clients={}), "wanted a list of clients"),
        (lambda m: m.update(clients=m["clients"] * 50_000), "100,000 clients at most"),
        (lambda m: m.update(class_names=["c"] * 10_001), "10,000 classes at most, got 10,001"),
        (lambda m: m.update(settings=[]), "wanted a block of settings"),
    ],
)
def test_a_list_of_clients_that_can_not_be_is_refused(
    changed: Callable[[str, Change], Path], change: Change, said: str
) -> None:
    with pytest.raises(DataError, match=said) as error:
        set_folder.read_manifest(changed("shards", change))
    assert "manifest.json" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["description"].update(class_names=[f"c{i}" for i in range(10_001)]), "10,000"),
        (lambda m: m["description"].update(class_names="abc"), "wanted a list"),
        (lambda m: m["description"].update(class_names=["x" * 256]), "1 to 255 characters"),
        (lambda m: m["description"].update(image_size=1 << 40), "pixels a side"),
        (lambda m: m["description"].update(scale="255"), "wanted float"),
        (lambda m: m["description"].update(scale=0), "positive and finite"),
        (lambda m: m["description"].update(more=1), "unknown field 'more'"),
        (lambda m: m["parts"].update({"../x": 3}), "can't be the name of a file"),
        (lambda m: m["parts"].update(train="many"), "number of images of 'train'"),
        (lambda m: m["files"].update({"/etc/passwd": "0"}), "can't be the name of a file"),
    ],
)
def test_a_description_that_can_not_be_is_refused(
    changed: Callable[[str, Change], Path], change: Change, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        set_folder.read(changed("prepared", change))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 1, "format": 1}', "stands twice"),
        ('{"format": 1, "parts": {"train": NaN}}', "NaN"),
        ('{"format": 1, "settings": ' + "[" * 99 + "]" * 99 + "}", "open brackets"),
        ('{"format": 1, "parts": {"train": ' + "9" * 5000 + "}}", "5000 digits"),
    ],
)
def test_a_manifest_has_one_meaning_and_bounds(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=said):
        set_folder.read_manifest(tmp_path)


def test_a_manifest_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(set_manifest.LARGEST + 1)
    with pytest.raises(DataError, match="wanted 134217728 at most"):
        set_folder.read_manifest(tmp_path)


def test_a_source_can_not_describe_more_than_can_be_read_again(bed: Bed) -> None:
    found = set_folder.read(bed.data / "synthetic" / "prepared").description
    with pytest.raises(DataError, match="names of classes with 1 to 255 characters"):
        replace(found, class_names=("x" * 256,))
