import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedx_core.base import state
from fedx_core.record import checkpoint
from fedx_core.rounds.federation import best_model
from fedx_core.store import open_store
from flows.runs import record
from flows.runs.run_folder import RunFolder

Fedx = Callable[..., int]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")
SELECTION = "federation.selection={metric: overall_accuracy, patience: 1, min_delta: 10.0}"


def test_a_run_that_stops_says_why_and_leaves_its_best_model(
    fedx: Fedx, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedx("run", *QUIETLY, "--run", "a", "--rounds", "6", "--set", SELECTION) == 0
    why = "no gain in validation overall_accuracy for 1 rounds after round 2"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped early: {why}"
    folder = RunFolder(Path("runs/a"))
    found = json.loads((folder.results / "summary.json").read_bytes())
    second, third = record.read(folder).reports[1:]
    assert found["stopped"] == {"round": 3, "why": why}
    assert found["best"] == {
        "round": 2,
        "metric": "overall_accuracy",
        "value": second.validation["overall_accuracy"],
        "metrics": second.metrics,
    }
    assert found["metrics"] == third.metrics
    assert found["per_class"]
    with (folder.results / "rounds.csv").open() as file:
        columns = [float(row["validation_overall_accuracy"]) for row in csv.DictReader(file)]
    assert columns[1:] == [r.validation["overall_accuracy"] for r in (second, third)]
    tensors, _ = checkpoint.unpack_state(folder.best.read_bytes())
    best = best_model(open_store(str(folder.path / "store")))
    assert best is not None
    assert state.digest(dict(sorted(tensors.items()))) == state.digest(dict(sorted(best.items())))
    assert [event.round_index for event in record.pruning_events(folder)] == [2]
    assert record.clients(folder) is not None

    assert fedx("resume", "a", "--rounds", "9", "--no-engine", "--track", "nothing") == 0
    assert "stopped early after round 3" in capsys.readouterr().err
    assert len(record.read(folder).reports) == 3


def test_without_selection_there_is_neither_a_best_round_nor_a_stop(fedx: Fedx) -> None:
    assert fedx("run", *QUIETLY, "--run", "a", "--rounds", "1") == 0
    folder = RunFolder(Path("runs/a"))
    found = json.loads((folder.results / "summary.json").read_bytes())
    assert (found["stopped"], found["best"]) == (None, None)
    assert "validation" not in (folder.results / "rounds.csv").read_text()
    assert not folder.best.exists()
