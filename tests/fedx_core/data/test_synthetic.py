import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, SourceMissingError
from fedx_core.data import synthetic
from fedx_core.data._metadata import CLASS_NAMES
from fedx_core.data.synthetic import DataSet
from fedx_core.images import set_folder, strata
from fedx_core.images.examples import Examples


def drawn(data_set: DataSet) -> dict[str, Examples]:
    streams = data_set.streams(data_set.open())
    return {
        name: Examples(np.stack(list(stream.images)), stream.labels, stream.groups)
        for name, stream in streams.items()
    }


def tiny(**changes: object) -> DataSet:
    values: dict[str, object] = {"train": 30, "validation": 20, "test": 20, "image_size": 16}
    return DataSet(**{**values, **changes})


@pytest.mark.parametrize(
    ("kind", "dtype", "bands", "classes"), [("single", "uint8", 3, 10), ("multi", "uint16", 10, 19)]
)
def test_scenes_have_the_shape_that_their_description_says(
    kind: str, dtype: str, bands: int, classes: int, tmp_path: Path
) -> None:
    data_set = tiny(label_kind=kind)
    source = data_set.open()
    set_folder.write(tmp_path / "set", source.description, data_set.streams(source), {})
    prepared = set_folder.read(tmp_path / "set")
    assert {name: len(part) for name, part in prepared.parts.items()} == {
        "train": 30,
        "validation": 20,
        "test": 20,
    }
    assert prepared.parts["train"].images.shape == (30, bands, 16, 16)
    assert prepared.parts["train"].images.dtype == dtype
    assert len(prepared.description.class_names) == classes


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_same_settings_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        data_set = tiny(label_kind=kind)
        source = data_set.open()
        set_folder.write(tmp_path / name, source.description, data_set.streams(source), {})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_an_image_does_not_depend_on_which_others_are_drawn(kind: str) -> None:
    split = tiny(label_kind=kind).open().splits["train"]
    together = list(split.read(np.arange(30)))
    for position in (17, 3, 29):
        (alone,) = split.read(np.array([position]))
        assert np.array_equal(alone, together[position])


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_another_seed_and_another_split_give_other_scenes(kind: str) -> None:
    one, other = drawn(tiny(label_kind=kind)), drawn(tiny(label_kind=kind, seed=1))
    assert not np.array_equal(one["train"].images[0], other["train"].images[0])
    assert not np.array_equal(one["train"].images[0], one["test"].images[0])
    assert len(np.unique(one["train"].images, axis=0)) == 30


def test_single_labels_are_balanced() -> None:
    source = tiny(train=103).open()
    counts = np.bincount(source.splits["train"].labels)
    assert sorted(counts.tolist()) == [10] * 7 + [11] * 3


def test_no_class_is_missing_from_a_split_with_several_labels() -> None:
    for split in tiny(label_kind="multi", train=190, test=38).open().splits.values():
        if len(split) >= 19:
            assert (split.labels.sum(axis=0) > 0).all()


def test_countries_differ_in_size_and_in_their_mix_of_classes() -> None:
    split = tiny(label_kind="multi", train=3000).open().splits["train"]
    sizes = np.bincount(split.groups, minlength=8)
    assert sizes.min() > 0
    assert sizes.max() > 4 * sizes.min()
    largest = np.argsort(sizes)[-2:]
    mixes = [split.labels[split.groups == country].mean(axis=0) for country in largest]
    # By chance alone, shares of some 600 images differ by less than 0.1.
    assert np.abs(mixes[0] - mixes[1]).max() > 0.15


def test_four_thousand_scenes_take_less_than_six_seconds() -> None:
    split = DataSet(train=4000).open().splits["train"]
    # Processor time: what else runs on the machine does not count.
    start = time.process_time()
    count = sum(1 for _ in split.read(np.arange(4000)))
    assert count == 4000
    assert time.process_time() - start < 6


def accuracy(train: Examples, test: Examples, epochs: int) -> float:
    """Train three convolutions and say which share of the test scenes they get right."""
    generator = torch.Generator().manual_seed(0)
    pixels = [torch.from_numpy(part.images.astype(np.float32)) / 255 for part in (train, test)]
    mean, std = pixels[0].mean((0, 2, 3), True), pixels[0].std((0, 2, 3), keepdim=True)
    images, unseen = [(value - mean) / std for value in pixels]
    labels = torch.from_numpy(train.labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 64)):
            layers += [
                torch.nn.Conv2d(before, after, 3, 2, 1),
                torch.nn.BatchNorm2d(after),
                torch.nn.ReLU(),
            ]
        pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)]
        model = torch.nn.Sequential(*layers, *pool)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(32):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        guesses: NDArray[np.int64] = model(unseen).argmax(1).numpy()
    return float((guesses == test.labels).mean())


def test_a_small_network_learns_the_scenes_but_not_perfectly() -> None:
    parts = drawn(DataSet(train=500, validation=10, test=300, image_size=32))
    # Chance is 0.1.
    assert 0.3 < accuracy(parts["train"], parts["test"], epochs=5) < 0.98


def test_a_limit_keeps_the_splits_in_proportion_and_the_classes_balanced() -> None:
    parts = drawn(tiny(train=600, validation=200, test=200, limit=100))
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    assert np.bincount(parts["train"].labels).tolist() == [6] * 10
    everything = tiny(train=600, validation=200, test=200).open().splits["train"]
    whole = {image.tobytes() for image in everything.read(np.arange(600))}
    assert all(image.tobytes() in whole for image in parts["train"].images)


def test_scenes_can_have_the_labels_of_real_patches(shared: Callable[[str], Path]) -> None:
    path = shared("bigearthnet_v2_metadata/metadata.parquet")
    data_set = tiny(label_kind="multi", metadata=str(path), limit=200)
    source = data_set.open()
    assert sum(len(split) for split in source.splits.values()) == 102_397
    streams = data_set.streams(source)
    sizes = [len(stream) for stream in streams.values()]
    # 50,334, 26,030 and 26,033 of 102,397.
    assert sizes == [98, 51, 51]
    assert source.description.group_names[0] == "Austria"
    assert next(iter(streams["train"].images)).shape == (10, 16, 16)


def test_a_class_for_each_pixel_is_the_cover_that_the_pixel_was_drawn_as() -> None:
    several, pixels = (tiny(label_kind=kind).open() for kind in ("multi", "pixels"))
    about = pixels.description
    assert (about.label_kind, about.name, about.source) == ("pixels", "synthetic", "drawn in code")
    for name, split in pixels.splits.items():
        other = several.splits[name]
        assert split.labels.shape == (len(other), about.image_size, about.image_size)
        borne = strata.borne(split.labels, len(about.class_names))
        assert borne.any(1).all()
        assert not (borne & ~other.labels.astype(bool)).any(), "covers are among the labels"
        np.testing.assert_array_equal(split.groups, other.groups)
        every = np.arange(len(split))
        for one, same in zip(split.read(every), other.read(every), strict=True):
            np.testing.assert_array_equal(one, same)
    water, image = CLASS_NAMES.index("Marine waters"), None
    for split in pixels.splits.values():
        for position, label_map in enumerate(split.labels):
            wet = label_map == water
            if 20 < wet.sum() < wet.size - 20:
                image = next(split.read(np.array([position])))
                assert image[6][wet].mean() < 0.5 * image[6][~wet].mean(), "water is dark"
    assert image is not None


def test_metadata_that_is_not_there_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match=r"absent.parquet; fetch it .3.6 MB. with: .*curl"):
        tiny(label_kind="multi", metadata=str(tmp_path / "absent.parquet")).open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label_kind": "several"},
            "label_kind must be one of single, multi, pixels, got 'several'",
        ),
        ({"image_size": 0}, "image_size must be 1 or more"),
        ({"train": -5}, "train must be 1 or more, got -5"),
        ({"limit": -1}, "limit must be 0"),
        ({"metadata": "auto"}, "set label_kind: multi"),
        ({"metadata": "auto", "label_kind": "pixels"}, "set label_kind: multi"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


def test_class_names_are_bigearthnets_in_corine_order() -> None:
    assert tiny(label_kind="multi").open().description.class_names == CLASS_NAMES
    assert len(CLASS_NAMES) == 19
    assert sum("," in name for name in CLASS_NAMES) == 4
    assert synthetic.AT_ONCE > 1
