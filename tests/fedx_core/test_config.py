import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import tiny
from fedx_core import config
from fedx_core.errors import ConfigError, UnknownNameError

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def raw() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    return values


def test_the_shipped_settings_are_the_papers() -> None:
    settings = config.load(PARAMS)
    assert (settings.federation.rounds, settings.training.epochs) == (20, 3)
    assert (settings.training.batch_size, settings.training.learning_rate) == (512, 1e-3)
    assert settings.training.weight_decay == 1e-4
    assert settings.method.params["warmup_rounds"] == 10


def test_settings_survive_the_way_to_plain_values_and_back() -> None:
    settings = config.load(PARAMS)
    assert config.parse(config.as_plain(settings)) == settings


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("federation.cliens", 8, r"federation\.cliens"),
        ("training.epochs", "three", r"training\.epochs.*'three'"),
        ("training.epochs", 0, r"training\.epochs must be 1 or more, got 0"),
        ("training.normalisation", "z", r"training\.normalisation"),
        ("federation.participation", 1.5, r"federation\.participation must lie in \(0, 1\]"),
        ("method.pruning_rate", 1.0, r"pruning_rate must lie in \[0, 1\)"),
        ("method.pruning_rate", 90, r"share, not a percentage"),
        ("method.pruning_rates", 0.5, r"did you mean 'pruning_rate'"),
        ("method.name", "fedprx", r"no method 'fedprx'"),
        ("method.name", "fedz", r"did you mean 'fedx'"),
        ("method.relevance", {"name": "lpr"}, r"no criterion 'lpr'; did you mean 'lrp'"),
        ("method.relevance", {"name": "lrp", "gama": 1}, r"did you mean 'gamma'"),
        ("codec.name", "maskd", r"codec: no codec 'maskd'; did you mean 'masked'"),
        ("datasets.synthetic.source.name", "sinthetic", r"did you mean 'synthetic'"),
        ("datasets.synthetic.partition.name", "idd", r"datasets\.synthetic\.partition: .*'iid'"),
        ("datasets.synthetic.reference.per_class", 0, r"per_class must be 1 or more"),
        ("dataset", "eurosta", r"did you mean 'eurosat'"),
        ("optimiser", {"name": "sgd"}, r"optimiser"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_full_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(PARAMS, {path: value})


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    from fedx_core.models import catalogue

    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        catalogue.entry("resnet-18")


def test_a_missing_block_is_named(raw: dict[str, Any]) -> None:
    del raw["federation"]
    with pytest.raises(ConfigError, match="federation"):
        config.parse(raw)


def test_a_missing_file_and_a_broken_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--params"):
        config.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1,")
    with pytest.raises(ConfigError, match="is not YAML"):
        config.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="one mapping"):
        config.load(tmp_path / "params.yaml")


def test_naming_another_plugin_drops_the_old_ones_parameters() -> None:
    settings = config.load(PARAMS, {"method.name": "fedavg"})
    assert settings.method == config.Plugin(name="fedavg")
    kept = config.load(PARAMS, {"method.pruning_rate": 0.9, "method.name": "fedx"})
    assert kept.method.params["pruning_rate"] == 0.9
    assert kept.method.params["relevance"] == {"name": "lrp"}


def test_overrides_leave_the_file_and_the_argument_as_they_are(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    changed = config.override(raw, {"federation.rounds": 7})
    assert raw == before
    assert changed["federation"]["rounds"] == 7
    with pytest.raises(ConfigError, match="seed is no block"):
        config.override(raw, {"seed.root": 3})


def test_a_block_that_is_null_can_be_filled_by_dotted_path() -> None:
    block = {"metric": "loss", "patience": 3, "min_delta": 0.1}
    dotted = {f"federation__selection__{name}": value for name, value in block.items()}
    assert tiny(**dotted) == tiny(federation__selection=block)
    assert tiny().federation.selection is None
    with pytest.raises(ConfigError, match=r"federation\.selection\.patienc: Unexpected"):
        tiny(federation__selection=block | {"patienc": 1})
