"""The benchmark of pre-training: rules are judged as they were decided, and rows run and resume."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from bed import ROOT
from fedx_core.base import config

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def pretraining(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("pretraining")


def scores(**points: float) -> dict[str, dict[int, float]]:
    """The same score in three seeds but for a little, in points."""
    return {
        name: {seed: (value + shift) / 100 for seed, shift in ((1, -0.1), (2, 0.0), (3, 0.2))}
        for name, value in points.items()
    }


GOOD: dict[str, float] = {
    "untrained": 70, "local_only": 75, "centralised": 80, "fedavg": 76, "fedu": 76.5,
    "fedsense_32": 78, "fedsense_1": 77.5, "no_feedback": 76, "no_flatness": 77,
    "no_alignment": 77.4, "no_distillation": 77.2,
}  # fmt: skip


def met(pretraining: Any, ratio: float = 31.9, **changed: float) -> dict[str, bool | None]:
    points = {**GOOD, **changed}
    given = {n: v for n, v in scores(**points).items() if points[n]}
    return {rule.name: rule.met for rule in pretraining.rules(given, ratio)}


def test_rules_are_met_where_all_is_well_and_each_fails_by_its_own(pretraining: Any) -> None:
    assert met(pretraining) == dict.fromkeys(["R0", "R1", "R2", "R3", "R4"], True)
    for rule, changed in (
        ("R0", {"centralised": 74.9}),
        ("R1", {"fedu": 78.0}),
        ("R2", {"fedsense_1": 76.9, "no_alignment": 76.0, "no_flatness": 76.0,
                "no_distillation": 76.0}),
        ("R2", {"no_feedback": 77.6}),
        ("R3", {"local_only": 77.2}),
        ("R4", {"no_alignment": 77.6}),
    ):  # fmt: skip
        found = met(pretraining, **changed)
        assert [name for name, value in found.items() if not value] == [rule], changed
    assert met(pretraining, ratio=30.0)["R2"] is False
    assert met(pretraining, no_feedback=0)["R2"] is None, "that row has not run"


def test_one_seed_is_too_few_to_be_above_a_rival(pretraining: Any) -> None:
    given = {name: {1: found[1]} for name, found in scores(**GOOD).items()}
    assert {r.name: r.met for r in pretraining.rules(given, 31.9)}["R1"] is False


def test_the_settings_of_every_row_are_valid(pretraining: Any) -> None:
    for shared in (pretraining.SHARED, pretraining.SMALL):
        for row in pretraining.ROWS.values():
            settings = config.load(ROOT / "params.yaml", {**shared, **row.settings})
            settings.method.build("methods")
            settings.training.objective.build("objectives")


def test_a_small_run_is_probed_once_and_goes_on(
    pretraining: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["pretraining.py", "--small", "--run-root", str(tmp_path), "--runs", "local_only",
               "untrained", "fedsense_1", "--set", "federation.rounds=1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    pretraining.main()
    first = capsys.readouterr().out
    rows = {line.split(" | ")[0].lstrip("| "): line for line in first.splitlines()}
    assert set(rows) >= {"untrained", "local_only", "fedsense_1", "R0", "R4"}
    assert "| open |" in rows["R1"]
    kept = tmp_path / "small" / "fedsense_1-1" / "probe.json"
    when = kept.stat().st_mtime_ns
    pretraining.main()
    assert capsys.readouterr().out == first
    assert kept.stat().st_mtime_ns == when
    monkeypatch.setattr(sys, "argv", [*command, "--figure", "curves.svg"])
    with pytest.raises(SystemExit):
        pretraining.main()
