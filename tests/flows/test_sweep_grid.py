"""A grid before it runs: names, what is refused, and which rounds are shared."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT
from fedx_core.base.errors import ConfigError
from flows.sweeps import grid as grids
from flows.sweeps import sharing
from flows.sweeps.grid import Grid

SEEDS = [1, 2]
BLOCKS: list[dict[str, Any]] = [
    {"method.name": "fedavg", "seed": SEEDS},
    {
        "method.name": "fedx",
        "method.relevance.name": "magnitude",
        "method.pruning_rate": [0.5, 0.9],
        "method.warmup_rounds": 2,
        "seed": SEEDS,
    },
]


def load(tmp_path: Path, params: Path, blocks: Any = BLOCKS, **others: Any) -> Grid:
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump({"grid": blocks, **others}, sort_keys=False))
    return grids.load(path, params)


def test_cells_are_all_combinations_with_names_that_say_what_they_are(
    tmp_path: Path, tiny_params: Path
) -> None:
    grid = load(tmp_path, tiny_params)
    assert [cell.run for cell in grid.cells] == [
        "rates-fedavg-s1",
        "rates-fedavg-s2",
        "rates-fedx-magnitude-q0.5-v2-s1",
        "rates-fedx-magnitude-q0.5-v2-s2",
        "rates-fedx-magnitude-q0.9-v2-s1",
        "rates-fedx-magnitude-q0.9-v2-s2",
    ]
    assert [cell.settings.seed for cell in grid.cells] == [1, 2] * 3
    assert grid.cells[5].settings.method.params["pruning_rate"] == 0.9
    assert {cell.label for cell in grid.cells} == {
        "fedavg",
        "fedx-q0.5",
        "fedx-q0.9",
    }


def test_a_whole_plug_in_can_be_one_value(tmp_path: Path, tiny_params: Path) -> None:
    dirichlet = {"name": "dirichlet", "clients": 3, "alpha": 0.3}
    grid = load(
        tmp_path,
        tiny_params,
        {"datasets.synthetic.partition": [dirichlet, {"name": "iid", "clients": 3}], "seed": 1},
        name="skew",
    )
    assert [cell.run for cell in grid.cells] == [
        "skew-dirichlet-clients3-alpha0.3-s1",
        "skew-iid-clients3-s1",
    ]
    assert grid.cells[0].settings.datasets["synthetic"].partition.params["alpha"] == 0.3


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"grid": {"sed": [1]}}, "cell sed1 of the grid: no setting 'sed'; did you mean 'seed'?"),
        ({"grid": {"method.name": ["fedavgg"]}}, "did you mean 'fedavg'"),
        ({"grid": {"method.pruning_rate": [1.5]}}, "cell q1.5 of the grid"),
        ({"grid": {"seed": [1, 1]}}, "two cells of the grid are the same"),
        ({"grid": [{"seed": 1}, {"seed": 1, "method.scope": "layer"}]}, "are the same"),
        (
            {"grid": {"seed": [1]}, "bases": {}},
            "no key 'bases' in a grid; did you mean 'base'?",
        ),
        ({"grid": []}, "grid must be a block"),
        ({"grid": {"seed": [1]}, "baseline": {"method.name": "fedavg"}}, "baseline names method"),
        ({"grid": {"seed": [1]}, "name": "../x"}, "impossible run name"),
    ],
)
def test_a_wrong_grid_is_refused_by_what_is_wrong(
    content: dict[str, Any], wanted: str, tmp_path: Path, tiny_params: Path
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as refused:
        grids.load(path, tiny_params)
    assert wanted in str(refused.value)


def test_cells_alike_up_to_their_pruning_event_branch_from_one_run_a_seed(
    tmp_path: Path, tiny_params: Path
) -> None:
    steps = sharing.steps(load(tmp_path, tiny_params))
    bases, cells = steps[:2], steps[2:]
    assert [base.is_cell for base in bases] == [False, False]
    assert [base.settings.federation.rounds for base in bases] == [2, 2]
    assert [base.settings.seed for base in bases] == [1, 2]
    assert all(base.settings.method.name == "fedavg" and not base.origin for base in bases)
    assert [cell.origin for cell in cells] == [f"{base.run}@2" for base in bases] * 3


def test_a_later_event_goes_on_from_where_an_earlier_one_branched(
    tmp_path: Path, tiny_params: Path
) -> None:
    grid = load(
        tmp_path,
        tiny_params,
        [{"method.warmup_rounds": [1, 2]}, {"method.name": "fedavg"}],
    )
    first, second, *cells = sharing.steps(grid)
    assert (first.origin, second.origin) == ("", f"{first.run}@1")
    assert [cell.origin for cell in cells] == [f"{run.run}@{n}" for n, run in
                                               ((1, first), (2, second), (2, second))]  # fmt: skip


@pytest.mark.parametrize(
    "axes",
    [
        {"method.warmup_rounds": [3], "method.pruning_rate": [0.5, 0.9]},  # as many as rounds
        {"training.batch_norm": "local", "method.pruning_rate": [0.5, 0.9]},
        {"training.optimiser_state": "kept", "method.pruning_rate": [0.5, 0.9]},
        {"codec.up.name": "signs", "method.pruning_rate": [0.5, 0.9]},
        {"training.learning_rate": [0.01, 0.001]},
        {"training.schedule": {"name": "cosine"}, "method.pruning_rate": [0.5, 0.9]},
        {"model.name": ["resnet6", "resnet18"]},
        {"federation.participation": [0.5, 1.0]},
        {"method.pruning_rate": [0.5]},
    ],
    ids=str,
)
def test_cells_whose_first_rounds_differ_or_can_not_be_taken_over_share_none(
    axes: dict[str, Any], tmp_path: Path, tiny_params: Path
) -> None:
    grid = load(tmp_path, tiny_params, {**axes, "seed": [1]})
    steps = sharing.steps(grid)
    assert len(steps) == len(grid.cells)
    assert not any(step.origin for step in steps)


def test_a_cell_is_paired_with_the_baseline_of_its_own_seed_and_data(
    tmp_path: Path, tiny_params: Path
) -> None:
    models = ["resnet6", "resnet18"]
    blocks = [{**block, "model.name": models} for block in BLOCKS]
    grid = load(tmp_path, tiny_params, blocks, baseline={"method.name": "fedavg"})
    for cell in grid.cells:
        other = grids.partner(grid, cell)
        if cell.settings.method.name == "fedavg":
            assert other is None
        else:
            assert other is not None
            assert other.settings.method.name == "fedavg"
            assert other.settings.seed == cell.settings.seed
            assert other.settings.model == cell.settings.model


def test_a_baseline_that_fits_two_cells_is_refused(tmp_path: Path, tiny_params: Path) -> None:
    grid = load(tmp_path, tiny_params, baseline={"method.name": "fedx"})
    with pytest.raises(ConfigError, match="name more of its settings"):
        grids.partner(grid, grid.cells[0])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "grids").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_grids_of_the_results_can_be_run(path: Path) -> None:
    grid = grids.load(path, ROOT / "params.yaml")
    seeds = defaultdict(set)
    for cell in grid.cells:
        seeds[cell.label].add(cell.settings.seed)
    assert all(found in ({1, 2, 3}, set(range(1, 9))) for found in seeds.values()), seeds
    assert all(grids.partner(grid, cell) for cell in grid.cells if cell.label != "fedavg")


def test_values_of_a_grid_are_compared_and_named_as_they_were_read(
    tmp_path: Path, tiny_params: Path
) -> None:
    block = {"method.pruning_rate": ["5e-1", 0.9], "method.coupled": ["n", "on"]}
    baseline = {"method.coupled": "off", "method.pruning_rate": "50e-2"}
    grid = load(tmp_path, tiny_params, block, baseline=baseline)
    assert [cell.run for cell in grid.cells] == [
        "rates-q0.5-coupledFalse",
        "rates-q0.5-coupledTrue",
        "rates-q0.9-coupledFalse",
        "rates-q0.9-coupledTrue",
    ]
    assert [cell.settings.method.build("methods").coupled for cell in grid.cells] == [0, 1] * 2
    assert grids.partner(grid, grid.cells[1]) == grid.cells[0]
    with pytest.raises(ConfigError, match="two cells of the grid are the same"):
        load(tmp_path, tiny_params, {"method.pruning_rate": ["5e-1", 0.5]})


def test_a_misspelt_column_or_key_of_a_grid_names_the_nearest(
    tmp_path: Path, tiny_params: Path
) -> None:
    with pytest.raises(ConfigError, match="'pruning_rates'; did you mean 'pruning_rate'"):
        load(tmp_path, tiny_params, {"method.pruning_rates": [0.5]})
    with pytest.raises(ConfigError, match=r"did you mean 'training\.epochs'"):
        load(tmp_path, tiny_params, {"training.epoch": [1, 2]})
    with pytest.raises(ConfigError, match="no key 'baselin' in a grid; did you mean 'baseline'"):
        load(tmp_path, tiny_params, baselin={})
    with pytest.raises(ConfigError, match=r"did you mean 'method\.name'"):
        load(tmp_path, tiny_params, baseline={"method.nam": "fedavg"})


def test_the_codec_of_each_direction_is_an_axis_of_its_own(
    tmp_path: Path, tiny_params: Path
) -> None:
    axes = {"method.name": "fedavg", "codec.up.name": ["signs", "masked"], "seed": [1]}
    grid = load(tmp_path, tiny_params, axes)
    assert [cell.label for cell in grid.cells] == ["fedavg-signs", "fedavg-masked"]
    assert [cell.settings.codec.down.name for cell in grid.cells] == ["masked", "masked"]
