import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fedx_core.base.errors import DataError, StoreError, VersionError
from fedx_core.images import examples, moments, set_folder
from fedx_core.images.examples import Description, Examples, Image, ImageStream


def description(**changes: Any) -> Description:
    values = {
        "name": "tiny",
        "bands": ("B02", "B03"),
        "class_names": ("a", "b", "c"),
        "label_kind": "single",
        "image_size": 4,
        "scale": 10_000.0,
        "group_names": ("Austria", "Österreich"),
        "published_mean": (0.1, 0.2),
    }
    return Description(**{**values, **changes})


def tiny(count: int = 5, seed: int = 0) -> Examples:
    generator = np.random.default_rng(seed)
    return Examples(
        generator.integers(0, 10_000, (count, 2, 4, 4), dtype=np.uint16),
        generator.integers(0, 3, count),
        generator.integers(0, 2, count).astype(np.int16),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    parts = {"train": tiny(5), "test": tiny(3, seed=1)}
    set_folder.write(tmp_path / "set", description(), parts, {"limit": 8})
    prepared = set_folder.read(tmp_path / "set")
    assert prepared.description == description()
    assert list(prepared.parts) == ["test", "train"]
    for name, part in parts.items():
        for kind in ("images", "labels", "groups"):
            found, wanted = getattr(prepared.parts[name], kind), getattr(part, kind)
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)
    assert isinstance(prepared.parts["train"].images, np.memmap)
    assert not prepared.parts["train"].images.flags.writeable
    assert prepared.manifest["settings"] == {"limit": 8}


def test_the_parts_that_are_wanted_are_read_where_others_are_kept_elsewhere(tmp_path: Path) -> None:
    parts = {"train": tiny(5), "test": tiny(3, seed=1)}
    set_folder.write(tmp_path / "set", description(), parts, {})
    for path in (tmp_path / "set").glob("train.*"):
        path.unlink()
    found = set_folder.read(tmp_path / "set", "test")
    assert np.array_equal(found.parts["test"].labels, parts["test"].labels)
    assert list(found.parts) == ["test"]
    assert found.manifest["parts"] == {"train": 5, "test": 3}
    with pytest.raises(DataError):
        set_folder.read(tmp_path / "set")


def test_equal_content_gives_equal_bytes_whether_streamed_or_not(tmp_path: Path) -> None:
    whole = tiny(6)
    streamed = ImageStream((image for image in whole.images), whole.labels, whole.groups)
    set_folder.write(tmp_path / "a", description(), {"train": whole}, {"x": 1, "y": 2})
    set_folder.write(tmp_path / "b", description(), {"train": streamed}, {"y": 2, "x": 1})
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert set_folder.digest(tmp_path / "a") == set_folder.digest(tmp_path / "b")


def test_arrays_are_what_numpy_writes_itself(tmp_path: Path) -> None:
    part = tiny(6)
    set_folder.write(tmp_path / "set", description(), {"train": part}, {})
    np.save(tmp_path / "numpy.npy", part.images)
    ours = tmp_path / "set" / "train.images.npy"
    assert ours.read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    wanted = hashlib.sha256(ours.read_bytes()).hexdigest()
    assert manifest["files"]["train.images.npy"] == wanted


def test_several_labels_an_image_are_kept_as_bytes(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.uint8)
    part = Examples(np.zeros((2, 2, 4, 4), np.uint16), labels, np.zeros(2, np.int16))
    set_folder.write(tmp_path / "set", description(label_kind="multi"), {"train": part}, {})
    found = set_folder.read(tmp_path / "set").parts["train"].labels
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels)


def test_a_part_may_be_empty(tmp_path: Path) -> None:
    set_folder.write(tmp_path / "set", description(), {"test": tiny(0)}, {})
    part = set_folder.read(tmp_path / "set").parts["test"]
    assert len(part) == 0
    assert part.images.shape == (0, 2, 4, 4)


def test_a_large_set_opens_at_once(tmp_path: Path) -> None:
    count = 2000
    images = np.zeros((count, 10, 60, 60), np.uint16)  # 144 MB
    part = Examples(images, np.zeros(count, np.int64), np.zeros(count, np.int16))
    bands = tuple(f"b{i}" for i in range(10))
    wide = description(bands=bands, image_size=60, published_mean=None)
    set_folder.write(tmp_path / "set", wide, {"train": part}, {})
    del images, part
    fastest = min(_timed(lambda: set_folder.read(tmp_path / "set")) for _ in range(5))
    assert fastest < 0.05


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def test_selected_examples_keep_the_order_of_the_indices(tmp_path: Path) -> None:
    part = tiny(5)
    stream = examples.select(part, np.array([4, 0]))
    assert len(stream) == 2
    assert np.array_equal(np.stack(list(stream.images)), part.images[[4, 0]])
    assert np.array_equal(stream.labels, part.labels[[4, 0]])
    assert np.array_equal(stream.groups, part.groups[[4, 0]])


def test_a_set_is_replaced_as_a_whole(tmp_path: Path) -> None:
    set_folder.write(tmp_path / "set", description(), {"train": tiny(5), "test": tiny(2)}, {})
    set_folder.write(tmp_path / "set", description(), {"train": tiny(3)}, {})
    assert set(set_folder.read(tmp_path / "set").parts) == {"train"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.lock", "set"]
    assert len(list((tmp_path / "set").iterdir())) == 4


def test_what_a_killed_attempt_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / f".set.{'0' * 32}.new"
    left.mkdir()
    (left / "train.images.npy").write_bytes(b"half")
    set_folder.write(tmp_path / "set", description(), {"train": tiny()}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    set_folder.verify(tmp_path / "set")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(StoreError, match=r"photos holds files but no manifest.json"):
        set_folder.write(tmp_path / "photos", description(), {"train": tiny()}, {})
    assert files_of(tmp_path / "photos") == {"holiday.jpg": b"dear"}
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_source_that_fails_half_way_leaves_the_old_set(tmp_path: Path) -> None:
    set_folder.write(tmp_path / "set", description(), {"train": tiny(4)}, {})
    before = files_of(tmp_path / "set")

    def failing() -> Iterator[Image]:
        yield tiny(1).images[0]
        raise DataError("image 1 does not decode")

    broken = ImageStream(failing(), np.zeros(2, np.int64), np.zeros(2, np.int16))
    with pytest.raises(DataError, match="image 1 does not decode"):
        set_folder.write(tmp_path / "set", description(), {"train": broken}, {})
    assert files_of(tmp_path / "set") == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


LIMITED = """
import errno, resource, signal, sys
from pathlib import Path
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from fedx_core.images import examples, set_folder
from fedx_core.base.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
description = examples.Description(
    name="big", bands=("a",), class_names=("a", "b"), label_kind="single", image_size=64,
    scale=255.0,
)
count = 1000
part = examples.Examples(
    np.zeros((count, 1, 64, 64), np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int16)
)
try:
    set_folder.write(Path(sys.argv[1]), description, {"train": part}, {})
except StoreError as error:
    print(error)
"""


def test_a_write_that_the_system_cuts_off_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "set")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "can't write" in result.stdout
    assert "File too large" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_set_larger_than_the_free_space_is_refused_before_any_work(tmp_path: Path) -> None:
    count = 20_000_000

    def never() -> Iterator[Image]:
        raise AssertionError("an image was read")
        yield

    huge = ImageStream(never(), np.zeros(count, np.int64), np.zeros(count, np.int16))
    wide = description(image_size=4096, published_mean=None)
    with pytest.raises(StoreError, match=r"needs .* GB and .* GB are free"):
        set_folder.write(tmp_path / "set", wide, {"train": huge}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"can't write .*file/set.*choose another data root"):
        set_folder.write(tmp_path / "file" / "set", description(), {"train": tiny()}, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 3])}, "labels of 'train' don't fit 'tiny': wanted one class"),
        ({"labels": np.array([0, -1])}, "wanted one class index below 3"),
        ({"labels": np.zeros((2, 3), np.uint8)}, "wanted one class index"),
        ({"groups": np.array([0, 2], np.int16)}, "wanted an index below 2"),
        ({"groups": np.zeros(3, np.int16)}, "each of 2 images"),
        ({"images": np.zeros((3, 2, 4, 4), np.uint16)}, "2 labels but 3 images"),
        ({"images": np.zeros((1, 2, 4, 4), np.uint16)}, "2 labels but 1 images"),
        ({"images": np.zeros((2, 2, 4, 5), np.uint16)}, "image 0 of 'train' is uint16 .2, 4, 5."),
        ({"images": np.zeros((2, 2, 4, 4), np.uint8)}, "wanted uint16"),
    ],
)
def test_examples_that_do_not_fit_their_description_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = {
        "images": np.zeros((2, 2, 4, 4), np.uint16),
        "labels": np.array([0, 1]),
        "groups": np.zeros(2, np.int16),
    }
    with pytest.raises(DataError, match=message):
        set_folder.write(
            tmp_path / "set", description(), {"train": Examples(**{**values, **changes})}, {}
        )
    assert list(tmp_path.iterdir()) == []


def test_labels_other_than_0_and_1_are_refused_where_there_are_several(tmp_path: Path) -> None:
    part = Examples(
        np.zeros((1, 2, 4, 4), np.uint16), np.array([[0, 2, 1]], np.uint8), np.zeros(1, np.int16)
    )
    with pytest.raises(DataError, match="wanted 0 or 1"):
        set_folder.write(tmp_path / "set", description(label_kind="multi"), {"train": part}, {})


def test_verifying_finds_one_flipped_bit(tmp_path: Path) -> None:
    set_folder.write(tmp_path / "set", description(), {"train": tiny(), "test": tiny(2)}, {})
    set_folder.verify(tmp_path / "set")
    path = tmp_path / "set" / "train.images.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    (tmp_path / "set" / "test.groups.npy").unlink()
    with pytest.raises(DataError, match=r"test.groups.npy, train.images.npy in .* differ"):
        set_folder.verify(tmp_path / "set")


def _truncate(folder: Path) -> None:
    os.truncate(folder / "train.images.npy", 200)


def _other_shape(folder: Path) -> None:
    np.save(folder / "train.images.npy", np.zeros((5, 2, 4, 5), np.uint16))


def _pickled(folder: Path) -> None:
    np.save(folder / "train.labels.npy", np.array([{}] * 5), allow_pickle=True)


def _by_columns(folder: Path) -> None:
    images = np.load(folder / "train.images.npy")
    np.save(folder / "train.images.npy", np.asfortranarray(images))


def _cut_in_its_header(folder: Path) -> None:
    os.truncate(folder / "train.labels.npy", 9)


def _cut_in_its_values(folder: Path) -> None:
    os.truncate(folder / "train.labels.npy", 130)


def _no_array(folder: Path) -> None:
    (folder / "train.groups.npy").write_bytes(bytes(range(200)))


def _without_array(folder: Path) -> None:
    (folder / "train.labels.npy").unlink()


def _without_keys(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1}')


@pytest.mark.parametrize(
    "damage",
    [
        _truncate, _other_shape, _pickled, _by_columns, _cut_in_its_header, _cut_in_its_values,
        _no_array, _without_array, _without_keys,
    ],
)  # fmt: skip
def test_a_damaged_set_is_an_error_that_says_what_to_do(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    set_folder.write(tmp_path / "set", description(), {"train": tiny()}, {})
    damage(tmp_path / "set")
    with pytest.raises(DataError, match=r"prepare .* again with dvc repro --force"):
        set_folder.read(tmp_path / "set")


def test_reading_where_nothing_was_prepared_says_how_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .*manifest.json; prepare the data set first"):
        set_folder.read(tmp_path / "absent")


def test_a_manifest_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="can't be read"):
        set_folder.read(tmp_path)


def test_a_set_of_another_format_is_refused(tmp_path: Path) -> None:
    set_folder.write(tmp_path / "set", description(), {"train": tiny()}, {})
    path = tmp_path / "set" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(VersionError, match="has format 2, this version reads 1"):
        set_folder.read(tmp_path / "set")


def test_moments_are_sums_over_scaled_pixels() -> None:
    part = tiny(7)
    pixels = part.images.astype(np.float64) / 10_000
    found = moments.measure(part, 10_000.0)
    assert found.count == 7 * 16
    for band in range(2):
        assert found.total[band] == pytest.approx(sum(pixels[:, band].ravel()), rel=1e-12)
        assert found.total_of_squares[band] == pytest.approx(
            sum(p * p for p in pixels[:, band].ravel()), rel=1e-12
        )


@given(
    images=arrays.arrays(np.uint8, (6, 2, 3, 3)),
    border=st.integers(0, 6),
)
@settings(max_examples=40, deadline=None)
def test_moments_of_two_sets_add_up_to_those_of_both(
    images: NDArray[np.uint8], border: int
) -> None:
    labels, groups = np.zeros(6, np.int64), np.zeros(6, np.int16)
    whole = moments.measure(Examples(images, labels, groups), 255.0)
    parts = [
        moments.measure(Examples(images[s], labels[s], groups[s]), 255.0)
        for s in (slice(border), slice(border, None))
    ]
    both = parts[0] + parts[1]
    assert both.count == whole.count
    np.testing.assert_allclose(both.total, whole.total, rtol=1e-12)
    mean, std = moments.mean_and_std(both)
    pixels = images / 255.0
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-9, atol=1e-12)
    constant = np.ptp(images, axis=(0, 2, 3)) == 0
    wanted = np.where(constant, 1.0, pixels.std(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, wanted, rtol=1e-6)


def test_moments_do_not_depend_on_how_many_images_are_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = tiny(9)
    whole = moments.measure(part, 10_000.0)
    monkeypatch.setattr(moments, "AT_ONCE", 40)
    chunked = moments.measure(part, 10_000.0)
    assert np.array_equal(whole.total, chunked.total)
    assert np.array_equal(whole.total_of_squares, chunked.total_of_squares)


def test_a_constant_band_gets_the_deviation_one() -> None:
    images = np.full((3, 2, 4, 4), 777, np.uint16)
    images[:, 1] = np.arange(16).reshape(4, 4)
    part = Examples(images, np.zeros(3, np.int64), np.zeros(3, np.int16))
    mean, std = moments.mean_and_std(moments.measure(part, 10_000.0))
    assert mean[0] == pytest.approx(0.0777)
    assert std[0] == 1.0
    assert std[1] == pytest.approx(np.arange(16).std() / 10_000)


def test_no_images_have_no_mean() -> None:
    with pytest.raises(DataError, match="no images"):
        moments.mean_and_std(moments.measure(tiny(0), 255.0))
