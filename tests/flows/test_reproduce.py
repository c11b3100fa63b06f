"""The paper's figures from grids that are shipped: what is run, what is shared, what is drawn."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT
from fedx_core.images import set_folder
from fedx_core.models import catalogue
from flows.reproduce import figures, printed, scale
from flows.reproduce.scale import Scale, scaled
from flows.runs.run_folder import RunFolder
from flows.settings import preset
from flows.sweeps import sharing
from flows.sweeps.grid import Grid

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]

RATES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SMALL = {
    "model.name": "resnet6",
    "datasets.synthetic.source.image_size": 32,
    "datasets.synthetic.partition.clients": 2,
    "training.batch_size": 16,
}


def planned(name: str, tmp_path: Path, **changes: Any) -> Grid:
    return figures.planned(name, Scale(**changes), ROOT / "params.yaml", tmp_path / name).grid


def of(grid: Grid, what: str) -> set[Any]:
    return {cell.axes.get(what) for cell in grid.cells}


@pytest.mark.parametrize("name", figures.NAMES)
def test_every_figure_has_the_papers_settings(name: str, tmp_path: Path) -> None:
    for cell in planned(name, tmp_path).cells:
        training, federation = cell.settings.training, cell.settings.federation
        assert (federation.rounds, training.epochs, training.batch_size) == (20, 3, 512)
        assert (training.learning_rate, training.weight_decay) == (0.001, 0.0001)
        if cell.settings.method.name == "fedx":
            assert cell.settings.method.params["warmup_rounds"] == 10


def test_each_figure_has_the_cells_that_the_paper_draws(tmp_path: Path) -> None:
    two, three, four, five = (planned(name, tmp_path) for name in figures.NAMES)
    assert len(two.cells) == 1 + 2 * 2 * 9
    assert of(two, "method.scope") == {None, "layer", "global"}
    assert of(three, "dataset") == {"bigearthnet", "eurosat"}
    assert {cell.settings.method.params["pruning_rate"] for cell in three.cells} == {0.9}
    assert of(four, "model.name") == set(catalogue.names()) - {"vit_tiny"}  # which is ours
    assert len(four.cells) == 2 * 6 * 10
    assert {"fedx", "feddst", "feddip", "fedavg"} <= of(five, "method.name")
    assert of(two, "method.pruning_rate") == of(four, "method.pruning_rate") == {None, *RATES}
    assert {c.settings.model.name for c in five.cells} == {"resnet6"}


def test_figures_take_each_others_runs_and_share_first_rounds(tmp_path: Path) -> None:
    two, three, four = (
        {cell.run: cell.settings for cell in planned(name, tmp_path).cells}
        for name in ("fig2", "fig3", "fig4")
    )
    assert len(two.keys() & three.keys()) == 2
    assert len(two.keys() & four.keys()) == 10
    for run in two.keys() & four.keys():
        assert two[run] == four[run]
    steps = sharing.steps(planned("fig2", tmp_path / "again"))
    bases = [step for step in steps if not step.is_cell]
    assert len(bases) == 1
    assert {step.origin for step in steps if step.is_cell} == {f"{bases[0].run}@10"}


def test_a_grid_is_moved_and_made_smaller(tmp_path: Path) -> None:
    grid = planned(
        "fig5", tmp_path, dataset="synthetic", rounds=8, seeds=2,
        overrides={"method.sparsity": [0.5], "training.epochs": 1},
    )  # fmt: skip
    assert of(grid, "dataset") == {"synthetic"}
    assert of(grid, "seed") == {1, 2}
    assert of(grid, "method.sparsity") == {None, 0.5}
    settings = {cell.settings.method.name: cell.settings for cell in grid.cells}
    assert settings["fedx"].method.params["warmup_rounds"] == 4
    assert settings["feddip"].method.params["target_round"] == 8
    assert settings["feddst"].method.params["adjust_until"] == 6
    assert settings["mpfl"].method.params["iterations"] == 2
    assert {(s.federation.rounds, s.training.epochs) for s in settings.values()} == {(8, 1)}
    assert all(cell.run.startswith("rivals-r8-") for cell in grid.cells)


def test_shipped_grids_are_not_changed_by_making_others_of_them() -> None:
    before = preset.grid("fig2")
    scaled(before, Scale(dataset="synthetic", dry=True, seeds=3))
    assert before == preset.grid("fig2")


def test_what_the_paper_prints_is_of_series_that_figures_have(tmp_path: Path) -> None:
    for name, series in printed.SCORES.items():
        methods = of(planned(name, tmp_path), "method.name")
        for words, scores in series.items():
            assert words.split()[0] in methods
            assert scores.keys() <= set(RATES)


def test_a_dry_run_goes_from_raw_images_to_figures_that_say_so(
    fedx: Fedx, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the runs' processes
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    options = [f"--set={path}={value}" for path, value in SMALL.items()]
    options += [
        "--data-root",
        str(tmp_path / "data"),
        "--track",
        "nothing",
        "--json",
        "--jobs",
        "2",
    ]
    options += ["--set=method.scope=layer", "--set=method.pruning_rate=[0.5]", "--dry-run"]
    code = fedx(
        "reproduce", "fig2", "--dataset", "synthetic", "--out", "out",
        "--set=method.relevance.name=magnitude", *options,
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    files = {Path(file).name for file in json.loads(said.out)["files"]}
    assert {"fig2-by-rate.png", "fig2-by-mib.svg", "fig2.csv", "fig2.tex", "grid.yaml"} <= files
    assert (
        "Dry run: 2 rounds, at most 400 images" in (tmp_path / "out/fig2-by-rate.svg").read_text()
    )
    with (tmp_path / "out/fig2.csv").open() as file:
        series = [row["series"] for row in csv.DictReader(file)]
    assert series == ["fedavg", "fedx (magnitude)"]
    prepared = set_folder.read(tmp_path / "data" / figures.DRY_DATA / "synthetic" / "prepared")
    assert sum(map(len, prepared.parts.values())) == scale.DRY_IMAGES
    # Finished runs are left, and their grid is one for other commands.
    assert fedx("compare", "--grid", "out/grid.yaml", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2


def test_retained_units_are_drawn_of_what_is_finished_and_missing_runs_are_named(
    fedx: Fedx, base: RunFolder, tmp_path: Path, capsys: Said
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    assert fedx("reproduce", "fig3", "--draw-only") == 1
    assert "no run of fig3 has a finished round" in capsys.readouterr().err
    grid = yaml.safe_load((tmp_path / "reproduced/fig3/grid.yaml").read_text())
    assert grid["name"] == "paper"
    run = next(iter(planned("fig3", tmp_path).cells)).run
    shutil.copytree(base.path, tmp_path / "runs" / run)
    assert fedx("reproduce", "fig3", "--draw-only") == 0
    assert "3 of 4 runs are missing" in (tmp_path / "reproduced/fig3/fig3.svg").read_text()
    with (tmp_path / "reproduced/fig3/fig3.csv").open() as file:
        kept = {row["layer"]: int(row["kept"]) for row in csv.DictReader(file)}
    assert kept["conv1"] == 4


def test_tables_are_written_as_files_too(fedx: Fedx, tmp_path: Path, capsys: Said) -> None:
    assert fedx("reproduce", "table1", "--out", "tables", "--json") == 0
    assert json.loads(capsys.readouterr().out)["equal_cells"] == 45
    with (tmp_path / "tables/table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["whose"], rows[0]["90"]) == ("paper", "183")
    assert int(float(rows[1]["90"])) == 183
