"""The tuning benchmark: every method's trials in one grid, and the best by validation."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT
from fedx_core.base import plugins
from flows.settings import preset
from flows.sweeps import grid as grids


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("tuning")


def test_one_grid_has_all_trials_of_all_methods_that_are_tuned(tuning: Any, tmp_path: Path) -> None:
    path = tmp_path / "tuning.yaml"
    path.write_text(yaml.safe_dump(tuning.grid(), sort_keys=False))
    cells = grids.load(path, ROOT / "params.yaml").cells
    tuned = [name for name in plugins.names("methods") if preset.of(name).tuning]
    assert sorted(tuning.ORDER) == tuned
    for name in tuned:
        own = [cell for cell in cells if cell.settings.method.name == name]
        assert len(own) == preset.TRIALS
        for cell in own:
            assert cell.settings.seed == preset.TUNING_SEED
            assert cell.settings.federation.selection is not None
            assert cell.settings.federation.rounds == tuning.REDUCED["federation.rounds"]
            known = cell.settings.method.params
            for setting in tuning.SHORTER.get(name, {}):
                assert setting.removeprefix("method.") in known


def test_mpfl_prunes_as_much_in_fewer_votes(tuning: Any) -> None:
    def left(settings: Any) -> float:
        return float((1 - settings["method.prune_share"]) ** settings["method.iterations"])

    wanted = left(preset.of("mpfl").fedx_protocol)
    assert left(tuning.SHORTER["mpfl"]) == pytest.approx(wanted, abs=1e-3)


def test_the_best_trial_is_the_first_with_the_highest_score_and_stands_in_bold(tuning: Any) -> None:
    tried = [
        ({"method.mu": 0.1, "method.flag": True}, 0.5),
        ({"method.mu": 0.2, "method.flag": True}, 0.75),
        ({"method.mu": 0.3, "method.flag": False}, 0.75),
        ({"method.mu": 0.4, "method.flag": False}, None),
    ]
    assert tuning.best(tried) == tried[1]
    assert tuning.best(tried[3:]) is None
    assert tuning.table({"fedprox": tried}).splitlines()[2] == (
        "| `fedprox` | `method.mu` / `method.flag`: 0.1 / true: 50.0; **0.2 / true: 75.0**; "
        "0.3 / false: 75.0; 0.4 / false: - |"
    )


def test_a_preset_takes_over_the_methods_own_settings_at_the_rate_that_all_have(
    tuning: Any,
) -> None:
    def trial(rate: float, consensus: str, score: float | None) -> Any:
        return {"training.learning_rate": rate, "method.consensus": consensus}, score

    tried = [trial(0.003, "quota", 0.9), trial(0.001, "quota", 0.6), trial(0.001, "majority", 0.7)]
    assert tuning.best(tried) == tried[0]
    assert tuning.chosen("mpfl", tried) == {"method.consensus": "majority"}
    assert tuning.chosen("mpfl", [*tried, trial(0.001, "quota", None)]) == {}
    assert tuning.chosen("fedavg", [({"training.learning_rate": 0.001}, 0.5)]) == {}
