"""Images without labels: any folder, or a data set whose labels are left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from bed import Bed, tiny
from fedx_core.base import config
from fedx_core.base.config import Plugin
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.data import folder, synthetic
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference


def draw(place: Path, *names: str) -> None:
    random = np.random.default_rng(0)
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(place / name)


def test_all_images_of_a_folder_are_taken_however_deep_they_lie(tmp_path: Path) -> None:
    names = [f"{where}{n}.png" for where in ("", "a/", "b/c/") for n in range(10)]
    draw(tmp_path, *names)
    (tmp_path / "notes.txt").write_text("none")
    source = folder.DataSet(source=str(tmp_path), labels="none").found()
    assert source.description.class_names == ("unlabelled",)
    taken = [name for split in source.splits.values() for name in split.names]
    assert sorted(taken) == sorted(names)
    assert [len(source.splits[s]) for s in ("train", "validation", "test")] == [18, 6, 6]
    assert not any(split.labels.any() for split in source.splits.values())
    assert source.notes["ignored"] == "files 1 .txt"


def test_folders_of_splits_are_splits_where_all_images_lie_in_one(tmp_path: Path) -> None:
    draw(tmp_path, "train/x/1.png", "train/2.png", "val/3.png", "test/4.png")
    source = folder.DataSet(source=str(tmp_path), labels="none").found()
    assert {name: list(split.names) for name, split in source.splits.items()} == {
        "train": ["train/2.png", "train/x/1.png"],
        "validation": ["val/3.png"],
        "test": ["test/4.png"],
    }


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("none")
    with pytest.raises(DataError, match=r"no images in .*; wanted .*\.png.*found files 1 \.txt"):
        folder.DataSet(source=str(tmp_path), labels="none").found()


def test_any_data_set_can_leave_its_labels_out(tmp_path: Path) -> None:
    for kind in ("single", "multi"):
        sizes: dict[str, Any] = {"train": 12, "validation": 4, "test": 4, "image_size": 32}
        named = synthetic.DataSet(label_kind=kind, **sizes).found()
        plain = synthetic.DataSet(label_kind=kind, labels="none", **sizes).found()
        assert plain.description == replace(
            named.description, class_names=("unlabelled",), label_kind="single"
        )
        one, other = (next(s.splits["train"].read(np.array([3], np.int64))) for s in (named, plain))
        np.testing.assert_array_equal(one, other)
        assert plain.splits["test"].labels.tolist() == [0] * 4
    with pytest.raises(ConfigError, match=r"labels must be none or empty, got 'a\.csv'; a"):
        synthetic.DataSet(labels="a.csv")


NONE = {"datasets__synthetic__source__labels": "none"}


@pytest.fixture
def unlabelled(tmp_path: Path) -> Bed:
    settings = tiny(**NONE)
    for step in (prepare, partition, reference):
        step(settings, "synthetic", tmp_path / "data")
    return Bed(tmp_path / "data", tmp_path / "runs")


def test_a_federation_learns_from_them_and_scores_nothing(unlabelled: Bed) -> None:
    settings = tiny(
        training__objective={"name": "byol"}, method__warmup_rounds=1, federation__rounds=2,
        method__relevance={"name": "lrp"}, **NONE,
    )  # fmt: skip
    reports = list(federate(settings, unlabelled.setting(), InProcess(1)))
    assert [report.metrics for report in reports] == [{}, {}]
    assert reports[-1].sparsity == pytest.approx(0.5, abs=0.05)
    assert reports[-1].train_loss > 0
    assert reports[-1].per_class == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"supervised learns labels, and data set 'synthetic' has none to tell apart; choose"),
        (
            {
                "training__objective": {"name": "simclr"},
                "federation__selection": {"metric": "loss", "patience": 1, "min_delta": 0.0},
            },
            r"federation\.selection judges rounds by labels, .* has none; set it to null",
        ),
    ],
)
def test_what_wants_labels_is_refused_before_the_run(
    changes: dict[str, Any], message: str, unlabelled: Bed
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(federate(tiny(**NONE, **changes), unlabelled.setting(), InProcess(1)))


def test_a_plugin_of_another_kind_may_not_name_a_table() -> None:
    with pytest.raises(ConfigError, match=r"source\.labels|labels must be none"):
        config.load(
            Path(__file__).parents[3] / "params.yaml",
            {"datasets.synthetic.source.labels": "labels.csv"},
        )
    assert Plugin(name="synthetic", params={"labels": "none"}).build("data").labels == "none"
