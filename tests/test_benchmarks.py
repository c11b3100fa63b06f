"""The engine's benchmark measures what it says, tried on a job of a second."""

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
CLIENTS, ROUNDS = 3, 2


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    jobs: Any = importlib.import_module("jobs")
    small = jobs.Job(model="resnet6", clients=CLIENTS, images=4)
    monkeypatch.setattr(jobs, "JOBS", {"small": small})
    monkeypatch.setattr(jobs, "EVALUATED", 8)
    monkeypatch.setenv("FEDX_BENCH_LAUNCHED", str(time.time()))
    return importlib.import_module("engine")


@pytest.mark.parametrize("store", ["", "memory", "file"])
def test_a_round_is_training_evaluation_and_what_is_left(
    engine: Any, tmp_path: Path, store: str
) -> None:
    jobs: Any = importlib.import_module("jobs")
    jobs.write(jobs.JOBS["small"], tmp_path)
    found = engine.measure("small", engine.Variant(1, store), tmp_path, ROUNDS)
    assert len(found["rounds"]) == ROUNDS
    for one in found["rounds"]:
        assert 0 < one["train"] < one["wall"]
        assert one["cpu"] > 0
        assert 0 < one["evaluate"] < one["wall"] - one["train"]
    last = found["rounds"][-1]
    outside = (last["wall"] - last["evaluate"] - last["train"]) / CLIENTS
    assert found["outside_milliseconds"] == pytest.approx(1000 * outside)
    assert 0 < found["start_seconds"] < 60


def test_timing_the_training_loop_leaves_the_core_as_it_was(engine: Any) -> None:
    from fedx_core.desk import desk

    before = desk.fit
    with engine.timed_training():
        assert desk.fit is not before
    assert desk.fit is before


def test_ratios_are_taken_within_a_repeat(engine: Any) -> None:
    # The machine is busy in the second repeat: medians of seconds are 2 and 6, but the ratios that
    # were met are 2, 1 and 3.
    numbers = (
        "cpu_seconds", "outside_milliseconds", "start_seconds", "rss_megabytes", "pss_megabytes",
    )  # fmt: skip
    repeats = [
        [
            {**dict.fromkeys(numbers, 1.0), "round_seconds": mine if v.store else plain}
            for v in engine.VARIANTS
        ]
        for plain, mine in ((1.0, 2.0), (10.0, 10.0), (2.0, 6.0))
    ]
    rows = engine.table("small", repeats).splitlines()[4:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[2] for row in cells] == ["2.00", "6.00", "6.00"] * 2
    assert [row[3] for row in cells] == ["1.00", "2.00", "2.00"] * 2
    assert [row[:2] for row in cells] == [[v.name, str(v.workers)] for v in engine.VARIANTS]
