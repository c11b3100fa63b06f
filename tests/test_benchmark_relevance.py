"""The benchmark of explanations measures what it says, tried on a batch of two images."""

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def relevance(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("relevance")


def test_each_kind_is_timed_once_a_pair_and_holds_more_than_the_model(relevance: Any) -> None:
    found = relevance.measure("resnet6", images=2, pairs=2, steps=1)
    for kind in relevance.KINDS:
        assert len(found[kind]["cpu"]) == len(found[kind]["wall"]) == 2
        assert min(found[kind]["wall"]) > 0
        assert found[kind]["peak_bytes"] > 310_000 * 4  # parameters, float32


def test_the_peak_is_of_what_is_held_at_once(relevance: Any) -> None:
    import torch

    def run() -> None:
        for _ in range(3):
            torch.zeros(1 << 20, dtype=torch.uint8)  # freed each time

    assert 1 << 20 <= relevance.peak_bytes(run) < 2 << 20


def test_ratios_are_of_medians_and_a_step_is_a_share(relevance: Any) -> None:
    def one(*seconds: float, peak: int = 10) -> dict[str, Any]:
        return {"cpu": list(seconds), "wall": list(seconds), "peak_bytes": peak}

    result = {
        "model": "m", "family": "resnet", "images": 2, "size": 8, "pairs": 3, "steps": 10,
        "training": one(1, 2, 9), "lrp": one(1, 3, 50, peak=12), "ig": one(10, 14, 90),
    }  # fmt: skip
    row = [cell.strip() for cell in relevance.table([result]).splitlines()[-1].split("|")[1:-1]]
    assert row[3:] == ["2.00", "1.50", "1.50", "1.5", "1.20", "1.5", "0.70", "0.70", "0.75"]
