"""A sweep's runs: shared rounds, failures, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT
from fedx_core.base.errors import DataError, RunExistsError
from fedx_core.base.state import equal
from fedx_core.record.journal import Journal
from fedx_core.rounds.federation import final_model
from fedx_core.store import open_store
from flows.sweeps import grid as grids
from flows.sweeps import sharing, sweep
from flows.sweeps.grid import Grid
from flows.sweeps.sweep import Job, Outcome, Places
from sweeping import Here

TWO_RATES = {"method.pruning_rate": [0.3, 0.5], "seed": [1]}


def grid_of(tmp_path: Path, params: Path, content: dict[str, Any]) -> Grid:
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return grids.load(path, params)


def carry_out(grid: Grid, places: Places, launch: Here) -> dict[str, Outcome]:
    jobs = sweep.jobs(grid, places)
    return {end.run: end for end in sweep.carry_out(jobs, launch, 1, lambda outcome: None)}


@pytest.fixture
def places(tmp_path: Path, tiny_data: Path) -> Places:
    return Places(run_root=tmp_path / "runs", data_root=tiny_data)


def store_of(places: Places, run: str) -> Any:
    return open_store(str(places.run_root / run / "store"))


def rounds_of(places: Places, run: str) -> list[dict[str, Any]]:
    rows = json.loads((places.run_root / run / "results" / "rounds.json").read_text())
    timed = ("seconds", "client_metrics", "rounds")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def test_shared_rounds_are_run_once_and_lead_to_the_same_models_and_numbers(
    tmp_path: Path, tiny_params: Path, places: Places
) -> None:
    blocks = [{"method.name": "fedavg"}, {"method.pruning_rate": 0.5}]
    grid = grid_of(tmp_path, tiny_params, {"grid": blocks})
    launch = Here(places)
    ends = carry_out(grid, places, launch)
    base, *cells = launch.ran
    assert {end.ending for end in ends.values()} == {"finished"}
    assert cells == ["rates-fedavg", "rates-q0.5"]
    alone = replace(places, run_root=tmp_path / "alone")
    for step in sharing.steps(grid)[1:]:
        begun = Journal(store_of(places, step.run)).run()
        assert begun is not None
        assert begun.branched_from.endswith(f"{base}/store@2")
        job = Job(step=replace(step, origin=""), data_root=places.data_root, standing="missing")
        Here(alone)(job)
        assert equal(
            final_model(store_of(places, step.run)), final_model(store_of(alone, step.run))
        )
        assert rounds_of(places, step.run) == rounds_of(alone, step.run)


def test_what_is_finished_is_left_and_what_has_begun_goes_on(
    tmp_path: Path, tiny_params: Path, places: Places
) -> None:
    grid = grid_of(tmp_path, tiny_params, {"base": {"federation.rounds": 2}, "grid": {"seed": [1]}})
    carry_out(grid, places, Here(places))
    (run,) = (cell.run for cell in grid.cells)
    again = Here(places)
    assert carry_out(grid, places, again)[run].ending == "skipped"
    assert again.ran == []

    (places.run_root / run / "results" / "summary.json").unlink()
    (job,) = sweep.jobs(grid, places)
    assert job.standing == "begun"
    carry_out(grid, places, again)
    assert again.ran == [run]
    assert sweep.jobs(grid, places)[0].standing == "finished"


def test_a_failed_run_stops_only_what_branches_from_it(
    tmp_path: Path, tiny_params: Path, places: Places
) -> None:
    content = {"base": {"method.warmup_rounds": 1}, "grid": [
        {"federation.rounds": 2, **TWO_RATES},
        {"method.name": "fedprox", "federation.rounds": 1, "seed": 1},
    ]}  # fmt: skip
    grid = grid_of(tmp_path, tiny_params, content)
    launch = Here(places, failing="-base-")
    ends = list(carry_out(grid, places, launch).values())
    assert [end.ending for end in ends] == ["failed", "failed", "failed", "finished"]
    assert ends[0].said == "error E_X: made to fail"
    assert f"{ends[0].run} failed" in ends[1].said
    assert len(launch.ran) == 2

    mended = Here(places)
    ends = list(carry_out(grid, places, mended).values())
    assert [end.ending for end in ends] == ["finished", "finished", "finished", "skipped"]


def test_a_run_with_other_settings_is_not_taken_for_a_cell(
    tmp_path: Path, tiny_params: Path, places: Places
) -> None:
    content = {"base": {"federation.rounds": 1}, "grid": {"seed": [1]}}
    carry_out(grid_of(tmp_path, tiny_params, content), places, Here(places))
    content["base"] = {"federation.rounds": 1, "training.epochs": 2}
    with pytest.raises(RunExistsError, match="with another training; give the sweep another name"):
        sweep.jobs(grid_of(tmp_path, tiny_params, content), places)


def test_each_partition_is_made_once_beside_the_data(
    tmp_path: Path, tiny_params: Path, tiny_data: Path, places: Places
) -> None:
    skewed = {"name": "dirichlet", "clients": 2, "alpha": 1.0}
    content = {
        "base": {"federation.rounds": 1},
        "grid": {
            "datasets.synthetic.partition": [{"name": "iid", "clients": 3}, skewed],
            "seed": [1, 2],
        },
    }
    grid = grid_of(tmp_path, tiny_params, content)
    roots = [job.data_root for job in sweep.jobs(grid, places)]
    assert roots[:2] == [tiny_data, tiny_data]
    assert roots[2] == roots[3] != tiny_data
    written = (roots[2] / "synthetic" / "shards" / "manifest.json").stat().st_mtime_ns
    assert [job.data_root for job in sweep.jobs(grid, places)] == roots
    assert (roots[2] / "synthetic" / "shards" / "manifest.json").stat().st_mtime_ns == written
    launch = Here(places)
    assert launch(sweep.jobs(grid, places)[2]) == ""
    assert len(rounds_of(places, launch.ran[0])[0]["cohort"]) == 2


def test_data_made_otherwise_are_refused_before_anything_runs(
    tmp_path: Path, tiny_params: Path, places: Places
) -> None:
    grid = grid_of(tmp_path, tiny_params, {"grid": {"datasets.synthetic.source.train": [96, 90]}})
    with pytest.raises(DataError, match="make it again with `fedx data synthetic`"):
        sweep.jobs(grid, places)
    assert not places.run_root.exists()


@pytest.fixture
def processes(tmp_path: Path, tiny_params: Path, tiny_data: Path) -> list[str]:
    """The command that carries out a sweep of one cell."""
    content = {"grid": {"seed": [1]}}
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(content))
    return [
        sys.executable, "-m", "flows.cli", "sweep", "rates.yaml", "--params", str(tiny_params),
        "--data-root", str(tiny_data), "--track", "nothing", "--jobs", "2",
    ]  # fmt: skip


def test_a_sweep_that_is_stopped_goes_on_to_its_end(processes: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = tmp_path / "runs" / "rates-s1"
    with subprocess.Popen(
        processes, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as first:
        while first.poll() is None and not (run / "store/journal/0000/commit").exists():
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        said = first.communicate()[1]
    assert first.returncode == 130, said
    assert "start the sweep again to go on" in said
    assert not (run / "results" / "summary.json").exists()

    done = subprocess.run(
        [*processes, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"] == [
        {"run": "rates-s1", "ending": "finished", "said": ""}
    ]
    assert "1/1 rates-s1 finished" in done.stderr
    assert len(rounds_of(Places(run_root=run.parent, data_root=tmp_path), run.name)) == 3


def test_a_dry_run_says_what_would_run_and_leaves_nothing(
    fedx: Any, capsys: pytest.CaptureFixture[str], tiny_params: Path
) -> None:
    Path("rates.yaml").write_text(yaml.safe_dump({"grid": TWO_RATES}))
    assert fedx("sweep", "rates.yaml", "--dry-run", "--params", str(tiny_params)) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("rates-q0.3-s1 ")
    assert " 1 rounds after rates-base-" in lines[1]
    assert last == "2 cells; at most 4 rounds to do, 6 if none were shared"
    assert not Path("runs").exists()


def test_a_sweep_is_compared_over_its_seeds(
    fedx: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_params: Path,
    places: Places,
) -> None:
    content = {
        "base": {"federation.rounds": 1},
        "grid": {"method.name": ["fedavg", "fedprox"], "seed": [1, 2]},
        "baseline": {"method.name": "fedavg"},
    }
    grid = grid_of(tmp_path, tiny_params, content)
    asked = ("compare", "--grid", "rates.yaml", "--params", str(tiny_params))
    assert fedx(*asked) == 1
    assert "start it with `fedx sweep`" in capsys.readouterr().err
    carry_out(grid, places, Here(places, failing="fedprox-s2"))
    assert fedx(*asked, "--json") == 0
    said = capsys.readouterr()
    assert "rates-fedprox-s2: no finished round yet" in said.err
    found = json.loads(said.out)
    scores = {run["run"]: run["final"] for run in found["runs"]}
    assert [(row["cell"], row["n"]) for row in found["cells"]] == [("fedavg", 2), ("fedprox", 1)]
    mean = (scores["rates-fedavg-s1"] + scores["rates-fedavg-s2"]) / 2
    assert found["cells"][0]["final"] == pytest.approx(mean)
    (difference,) = found["differences"]
    assert difference["mean"] == scores["rates-fedprox-s1"] - scores["rates-fedavg-s1"]
    assert fedx(*asked) == 0
    assert "over seeds, mean ± standard deviation (overall_accuracy):" in capsys.readouterr().out
    assert fedx(*asked, "base") == 2
