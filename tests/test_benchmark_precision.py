"""The benchmark of precision compares what it says, tried on the smallest model."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def precision(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("precision")


def test_a_model_is_compared_before_and_after_training(precision: Any) -> None:
    found = list(precision.compare("resnet6", images=2, steps=1, batch=2))
    assert [row["steps"] for row in found] == [0, 1]
    for row in found:
        assert row["units"] == 576
        assert 0 < row["largest"]["float32"] == pytest.approx(row["largest"]["float64"], rel=1e-2)
        assert len(row["precisions"]) == len(row["batches"]) == len(precision.RATES)
    assert found[0]["largest"] != found[1]["largest"], "training moved nothing"
    assert precision.table(found).count("\n") == 3


def test_a_unit_differs_where_one_of_two_masks_has_it(precision: Any) -> None:
    one = {"a": torch.arange(10.0), "b": torch.arange(4.0)}
    # Ranks 1 and 2 change places: seen at 0.2, which drops two of ten, and not at 0.5 or 0.8.
    other = {"a": torch.tensor([0, 2, 1, *range(3, 10)]).float(), "b": torch.arange(4.0)}
    assert precision.differing(one, other) == [2, 0, 0]
    assert precision.differing(one, one) == [0, 0, 0]
    assert precision.apart(one, other) == 0.5  # they score 1 and 2
    assert precision.apart(one, one) == 0
