"""What is shipped for methods: complete, valid, and the same number of trials for all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT
from fedx_core.base import config, plugins
from fedx_core.base.errors import ConfigError, UnknownNameError
from flows.settings import preset
from flows.sweeps import grid as grids

Fedx = Callable[..., int]

METHODS = plugins.names("methods")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", preset.NAMES)
def test_every_method_has_all_presets_and_they_are_valid(method: str, name: str) -> None:
    settings = config.load(ROOT / "params.yaml", preset.settings(name, method))
    assert settings.method.name == method
    settings.method.build("methods")
    assert preset.of(method).source.strip()


def shared_settings(method: str) -> dict[str, Any]:
    plain = config.as_plain(
        config.load(ROOT / "params.yaml", preset.settings("fedx_protocol", method))
    )
    del plain["method"]
    return dict(plain)


@pytest.mark.parametrize("method", METHODS)
def test_under_the_protocol_methods_differ_in_their_own_settings_alone(method: str) -> None:
    assert shared_settings(method) == shared_settings("fedavg")


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_that_the_server_can_judge_get_the_same_number_of_trials(
    method: str, tmp_path: Path
) -> None:
    kind = plugins.load("methods", method)
    if kind.personal or kind.pre_trains:
        with pytest.raises(ConfigError, match="nothing of"):
            preset.tuning_grid(method)
        return
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(preset.tuning_grid(method, "eurosat"), sort_keys=False))
    grid = grids.load(path, ROOT / "params.yaml")
    assert len(grid.cells) == preset.of(method).trials == preset.TRIALS
    for cell in grid.cells:
        cell.settings.method.build("methods")
        assert cell.settings.dataset == "eurosat"
        assert cell.settings.federation.selection is not None
        assert cell.settings.seed == preset.TUNING_SEED


def test_a_preset_replaces_the_methods_block_and_nothing_of_the_file_stays(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["method"]["min_keep"] = 3
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    found = config.load(tmp_path / "params.yaml", preset.settings("fedx_protocol", "fedx"))
    assert found.method.params == {
        "pruning_rate": 0.8,
        "warmup_rounds": 10,
        "scope": "layer",
        "relevance": {"name": "lrp", "aggregation": "signed", "initial": "one"},
    }


def test_unknown_presets_and_methods_name_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="choose one of paper, fedx_protocol, fewer_bytes"):
        preset.settings("papr", "fedx")
    with pytest.raises(UnknownNameError, match="did you mean 'feddst'"):
        preset.settings("paper", "fedst")


def test_a_grids_preset_follows_each_cells_method_and_a_block_may_have_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "grid.yaml").write_text(
        """
        preset: fedx_protocol
        base: {federation.rounds: 7, method.relevance.aggregation: abs_elementwise}
        grid:
          - {method.name: fedx, method.pruning_rate: [0.2, 0.4]}
          - {preset: paper, method.name: fedx, method.pruning_rate: 0.2, seed: 5}
        """
    )
    cells = grids.load(tmp_path / "grid.yaml", ROOT / "params.yaml").cells
    assert [cell.label for cell in cells] == ["fedx-q0.2", "fedx-q0.4", "fedx-q0.2"]
    assert [c.settings.method.params.get("mask") for c in cells] == [None, None, "row_and_scale"]
    assert {c.settings.federation.rounds for c in cells} == {7}  # the base goes over presets
    relevance = [c.settings.method.params["relevance"] for c in cells]
    assert {one["aggregation"] for one in relevance} == {"abs_elementwise"}


def test_run_takes_a_preset_and_other_options_go_over_it(
    fedx: Fedx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedx("run", "--preset", "paper", "--no-engine") == 1
    assert "name it with --method" in capsys.readouterr().err
    code = fedx(
        "run", "--preset", "fedx_protocol", "--method", "fedmap", "--rounds", "1", "--no-engine",
        "--track", "nothing", "--run", "tried", "--set", "training.epochs=1",
        "--set", "method.prune_share=0.5",
    )  # fmt: skip
    assert code == 0
    kept = config.load(tmp_path / "runs/tried/config.yaml")
    wanted = {"sparsity": 0.8, "prune_share": 0.5, "prune_every": 2, "scope": "layer"}
    assert kept.method.params == wanted
    assert (kept.training.batch_size, kept.training.epochs) == (512, 1)


def test_methods_lists_all_and_writes_the_grid_of_ones_trials(
    fedx: Fedx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedx("methods", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["methods"]
    assert [row["method"] for row in listed] == METHODS
    assert fedx("methods", "feddst") == 0
    said = capsys.readouterr().out
    assert "method.adjust_every: 15" in said
    assert "tuning, 6 trials" in said
    assert fedx("methods", "feddst", "--tuning", "tune.yaml", "--dataset", "synthetic") == 0
    assert capsys.readouterr().out == "fedx sweep tune.yaml\n"
    written = yaml.safe_load((tmp_path / "tune.yaml").read_text())
    assert written == preset.tuning_grid("feddst", "synthetic")
    assert fedx("methods", "--tuning", "tune.yaml") == 2


def test_the_page_on_methods_names_what_is_tuned() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    for method in METHODS:
        if tuning := preset.of(method).tuning:
            shown = {
                path: ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
                for path, values in tuning.items()
            }
            said = "; ".join(f"`{path}`: {values}" for path, values in shown.items())
            assert f"| `{method}` | {said} |" in page


def test_the_parts_of_a_method_are_listed_with_what_may_take_their_place(
    fedx: Fedx,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {}
    for method in ("fedx", "fedavg", "fedprox", "spafl"):
        assert fedx("methods", method, "--json") == 0
        found[method] = json.loads(capsys.readouterr().out)["parts"]
    assert list(found["fedx"]) == ["local", "exchange", "server", "pruner"]
    assert found["fedx"]["pruner"]["is"] == "relevance"
    assert "part of its own" in found["fedx"]["pruner"]["fixed"]
    assert found["fedx"]["server"] == {
        "is": "average",
        "others": ["fedadam", "fedavgm", "fedyogi"],
        "fixed": "",
    }
    assert "layers" not in found["fedx"]["exchange"]["others"], "layers can't go under a mask"
    assert "layers" in found["fedavg"]["exchange"]["others"]
    assert "votes" not in found["fedavg"]["pruner"]["others"], "its clients send none"
    assert found["fedprox"]["local"]["is"] == "proximal"
    assert "thresholds" in found["spafl"]["exchange"]["fixed"]
    assert fedx("methods", "fedx") == 0
    said = capsys.readouterr().out
    assert "  server: average, or fedadam, fedavgm, fedyogi\n" in said
