"""The benchmarks of data and of a client's steps measure what they say, on few images."""

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("data")


def test_real_images_are_prepared_and_opened_and_counted(data: Any, shared_data: Path) -> None:
    wall, cpu = data.eurosat_prepared(shared_data, 2, 60)
    assert wall.what == "EuroSAT, 60 JPEGs: prepared"
    assert len(wall.values) == len(cpu.values) == 2
    assert not wall.target  # which is that of all images
    (opened,) = data.shard_opened(shared_data, 1, 60)
    assert opened.what == "a shard of 36 images: opened"


def test_the_real_patches_of_both_releases_are_prepared_over_and_over(
    data: Any, shared_data: Path
) -> None:
    speed, one, all_of_them, _ = data.bigearthnet_prepared(shared_data, 1, 70)
    assert speed.what == "BigEarthNet, 68 real patches, 70 in all: prepared"
    assert all_of_them.values == pytest.approx([480_038 / speed.values[0] / 3600])
    assert one.values[0] > 0


def test_the_table_has_medians_and_their_span(data: Any) -> None:
    figure = data.Figure("a thing: done", [3.0, 1.0, 2.0], "ms", "5")
    last = data.table([figure]).splitlines()[-1]
    assert last == "| a thing: done | 2 ms | 1 to 3 | 5 |"


def test_the_steps_of_a_round_add_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    jobs: Any = importlib.import_module("jobs")
    monkeypatch.setattr(jobs, "EVALUATED", 8)
    steps: Any = importlib.import_module("steps")
    before = steps.memory.reference
    for kept in ("memory", "files"):
        found = steps.profile("tiny100", kept, 2, clients=2)
        assert list(found) == [*steps.STEPS, steps.REST]
        assert all(found[label] > 0 for label in steps.STEPS)
        assert 0 < found[steps.REST] < found["training"]
    assert steps.memory.reference is before
