"""Means and paired differences against a slow restatement."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from flows.sweeps import grid as grids
from flows.sweeps import paired
from flows.sweeps.grid import Grid


@pytest.fixture
def grid(tmp_path: Path, tiny_params: Path) -> Grid:
    path = tmp_path / "rates.yaml"
    blocks = [
        {"method.name": "fedavg", "seed": [1, 2, 3, 4]},
        {"method.name": "fedx", "method.pruning_rate": 0.5, "seed": [1, 2, 3, 4]},
    ]
    path.write_text(yaml.safe_dump({"grid": blocks, "baseline": {"method.name": "fedavg"}}))
    return grids.load(path, tiny_params)


def rows(grid: Grid) -> dict[str, dict[str, Any]]:
    scores = [0.70, 0.74, 0.71, 0.75, 0.69, 0.74, 0.69, 0.72]
    same = {"validation": None, "mib_total": 10.0, "sparsity": None}
    return {
        cell.run: {**same, "final": score, "best": score}
        for cell, score in zip(grid.cells, scores, strict=True)
    }


def test_quantiles_are_students() -> None:
    wanted = stats.t.ppf(0.975, np.arange(1, 31))
    np.testing.assert_allclose(paired.T_975, wanted, rtol=0, atol=5e-4)


def test_differences_are_taken_seed_by_seed(grid: Grid) -> None:
    pairs = np.array([0.69 - 0.70, 0.74 - 0.74, 0.69 - 0.71, 0.72 - 0.75])
    low, high = stats.t.interval(0.95, 3, loc=pairs.mean(), scale=stats.sem(pairs))
    (found,) = paired.differences(grid, rows(grid))
    assert (found["cell"], found["baseline"], found["n"]) == ("fedx", "fedavg", 4)
    assert found["mean"] == pytest.approx(pairs.mean())
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-5)


def test_a_pair_of_which_one_is_missing_is_left_out_and_one_pair_has_no_interval(
    grid: Grid,
) -> None:
    there = rows(grid)
    del there[grid.cells[0].run], there[grid.cells[5].run]
    there[grid.cells[6].run]["final"] = None
    (found,) = paired.differences(grid, there)
    assert found["n"] == 1
    assert found["mean"] == pytest.approx(0.72 - 0.75)
    assert found["low"] is None
    assert found["high"] is None


def test_means_and_spreads_are_over_the_runs_that_are_there(grid: Grid) -> None:
    there = rows(grid)
    del there[grid.cells[0].run]
    averages = paired.over_seeds(grid, there)
    assert [(row["cell"], row["n"], row["seeds"]) for row in averages] == [
        ("fedavg", 3, 4),
        ("fedx", 4, 4),
    ]
    assert averages[0]["final"] == pytest.approx(np.mean([0.74, 0.71, 0.75]))
    assert averages[0]["final_sd"] == pytest.approx(np.std([0.74, 0.71, 0.75], ddof=1))
    assert averages[0]["mib_total_sd"] == 0
    assert averages[0]["sparsity"] is None
