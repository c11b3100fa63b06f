"""The benchmark of 16 bits trains with and without, and divides the medians."""

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_a_row_holds_both_medians_and_their_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    cpu_amp: Any = importlib.import_module("cpu_amp")
    assert all(len(times) == 2 for times in cpu_amp.timed("resnet6", 2, 8))
    monkeypatch.setattr(cpu_amp, "timed", lambda *_: ([2.0, 4.0, 3.0], [1.0, 9.0, 1.5]))
    *_, row = cpu_amp.table(["resnet6"], 1, 8).splitlines()
    assert row == "| resnet6 | 3.00 | 1.50 | 0.50 |"
