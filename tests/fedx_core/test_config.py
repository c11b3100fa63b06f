import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT, tiny
from fedx_core.base import config, parsing, plugins, strict_yaml
from fedx_core.base.errors import ConfigError, UnknownNameError

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
        ("dataset", "eurosta", r"^dataset: no data set 'eurosta'"),
        ("prepare", ["eurosta"], r"^prepare: no data set 'eurosta' in datasets; did you mean 'eu"),
        (
            "optimiser",
            {"name": "sgd"},
            r"did you mean 'training.optimiser'\?",
        ),
        ("zzz", {"name": "sgd"}, r"no setting 'zzz'; params.yaml takes seed, prepare"),
        ("federation.cliens", 8, r"no setting 'federation.cliens'.*federation takes rounds, part"),
        ("federation.round", 8, r"did you mean 'federation.rounds'\? federation takes"),
        ("trainin.epochs", 8, r"no setting 'trainin'; did you mean 'training'\?"),
        ("Training.epochs", 8, r"did you mean 'training'\?"),
        ("epochs", 8, r"no setting 'epochs'; did you mean 'training.epochs'\?"),
        ("pruning_rate", 0.5, r"did you mean 'method.pruning_rate'\?"),
        ("datasets.eurosta.source.limit", 5, r"datasets\.eurosta\..*did you mean 'eurosat'"),
        ("datasets.eurosat.sorce.limit", 5, r"did you mean 'datasets.eurosat.source'\?"),
        ("training.normalisation", "referense", r"did you mean 'reference'\?"),
        ("training.epochs", True, r"^training.epochs: wanted a number, got true"),
        ("training.learning_rate", True, r"^training.learning_rate: wanted a number"),
        ("method.warmup_rounds", True, r"^method.warmup_rounds: wanted a number, got true"),
        ("training.epochs", 1.5, r"^training.epochs: wanted a whole number"),
        ("training.flips", "perhaps", r"^training.flips: wanted true or false.*'perhaps'"),
        ("method.coupled", "perhaps", r"^method.coupled: wanted true or false.*'perhaps'"),
        ("method.pruning_rate", "much", r"^method.pruning_rate: wanted a number.*'much'"),
        ("method.pruning_rate", "nan", r"^method.pruning_rate"),
        ("method.relevance", {"name": "lrp", "gamma": "inf"}, r"^method.relevance.gamma: wanted a"),
        ("training.learning_rate", float("inf"), r"^training.learning_rate: wanted a finite"),
        ("seed", 10**30, r"^seed: wanted a whole number of 64 bits"),
        ("method", "fedx", r"^method: wanted a block with the method's name, got 'fedx'"),
        ("prepare", "synthetic", r"^prepare: wanted a list, got 'synthetic'"),
        ("federation.selection", {"metrc": "loss"}, r"did you mean 'federation.selection.metric'"),
        ("training", 5, r"^training: wanted a block of settings, got 5"),
        ("training", None, r"^training: wanted a block of settings"),
        ("datasets.synthetic.source.image_size", "big", r"^datasets.synthetic.source.image_size: "),
        ("codec", {"name": "masked", "bits": 4}, r"^codec: codec 'masked' has no parameter 'bits'"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_full_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config.load(PARAMS, {path: value})
    assert "Value error" not in str(error.value)


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
    with pytest.raises(ConfigError, match=r"params.yaml is not YAML that can be read, line 1"):
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
    with pytest.raises(
        ConfigError, match=r"selection\.patienc'; did you mean 'federation\.selection\.patience'"
    ):
        tiny(federation__selection=block | {"patienc": 1})


SWITCHES = [
    (package, name, field.name)
    for package in plugins.CLASS_NAMES
    for name in plugins.names(package)
    for field in dataclasses.fields(plugins.load(package, name))
    if field.type is bool
]


def plugin_of(package: str, name: str, params: dict[str, Any]) -> config.Plugin:
    """What is read of a plug-in's block, wherever such blocks stand."""
    read = parsing.Slot(package).read({"name": name, **REQUIRED.get(name, {}), **params})
    return config.Plugin(name=read.pop("name"), params=read)


REQUIRED: dict[str, dict[str, Any]] = {
    "fedx": {"pruning_rate": 0.5},
    "relevance": {"pruning_rate": 0.5},
    "folder": {"source": "images"},
    "torchgeo": {"data_set": "EuroSAT", "root": "raw"},
    "iid": {"clients": 3},
    "dirichlet": {"clients": 3, "alpha": 1},
    "quantity": {"clients": 3, "alpha": 1},
}


@pytest.mark.parametrize(("package", "name", "switch"), SWITCHES)
def test_every_switch_of_a_plugin_is_off_when_it_is_told_so(
    package: str, name: str, switch: str
) -> None:
    assert len(SWITCHES) >= 9
    for text in ("n", "f", "no", "off", "false", "False", "0", 0, False):
        built = plugin_of(package, name, {switch: text}).build(package)
        assert getattr(built, switch) is False
    with pytest.raises(ValueError, match="boolean"):
        plugin_of(package, name, {switch: "perhaps"})


NUMBERS = [
    (package, name, field.name, field.type)
    for package in plugins.CLASS_NAMES
    for name in plugins.names(package)
    for field in dataclasses.fields(plugins.load(package, name))
    if field.type in (int, float)
]


@pytest.mark.parametrize(("package", "name", "number", "kind"), NUMBERS)
def test_every_number_of_a_plugin_may_come_as_text_and_gets_its_type(
    package: str, name: str, number: str, kind: type
) -> None:
    assert len(NUMBERS) > 40
    for value in (2, 1, 0.5, 0.25, 0, 16, 64):
        try:
            plain = getattr(plugin_of(package, name, {number: value}).build(package), number)
        except ValueError:
            continue  # not in its range, or no whole number
        if kind is not int or value == int(value):
            for text in (str(value), f"{value:e}" if kind is float else f"{value}.0", float(value)):
                built = plugin_of(package, name, {number: text}).build(package)
                assert getattr(built, number) == plain == value
                assert type(getattr(built, number)) is kind
            return
    pytest.fail(f"no value tried fits {name}.{number}")


def test_lists_of_plugins_are_read_and_kept_as_params_yaml_says_them() -> None:
    path = "datasets.bigearthnet.source"
    settings = config.load(PARAMS, {f"{path}.months": ["6", 7.0, "8"], f"{path}.limit": "1e3"})
    source = settings.datasets["bigearthnet"].source
    assert source.params["months"] == [6, 7, 8]
    assert (source.build("data").months, source.build("data").limit) == ((6, 7, 8), 1000)
    assert "bands" not in source.params


def test_text_is_no_number_and_no_switch_where_settings_were_read_already() -> None:
    for params in ({"pruning_rate": "5e-1"}, {"pruning_rate": 0.5, "coupled": "n"}):
        with pytest.raises(ConfigError, match=r"method 'fedx': .*wanted"):
            plugins.build("methods", "fedx", params)


def test_what_is_no_plain_value_is_refused() -> None:
    import datetime

    with pytest.raises(ConfigError, match="settings must be numbers, text"):
        config.load(PARAMS, {"seed": datetime.date(2024, 1, 1)})


def test_annotations_say_which_blocks_a_new_name_empties() -> None:
    raw = strict_yaml.read(ROOT / "params.yaml")
    blocks = set(parsing.choosing(config.ExperimentConfig, raw))
    assert {"method", "method.relevance", "codec", "datasets.eurosat.source"} <= blocks
    assert {"datasets.synthetic.partition", "training.schedule"} <= blocks
    assert not blocks & {"model", "training", "federation", "datasets", "datasets.eurosat"}
    changed = config.override(raw, {"model.name": "resnet18", "method.relevance.name": "random"})
    assert changed["model"]["weights"] == raw["model"]["weights"]
    assert changed["method"]["relevance"] == {"name": "random"}
    assert changed["method"]["pruning_rate"] == raw["method"]["pruning_rate"]


@pytest.mark.parametrize(
    ("codec", "says"),
    [
        (
            {"down": {"name": "deadzone", "bits": "a"}, "up": {"name": "dense"}},
            r"codec\.down\.bits: ",
        ),
        (
            {"down": {"name": "dense"}, "up": {"name": "deadzone", "bits": 9}},
            r"codec\.up\.bits must",
        ),
        ({"down": {"name": "dense"}, "up": {"name": "deadzone", "bit": 1}}, r"codec\.up: .*'bits'"),
        ({"down": {"name": "dnse"}, "up": {"name": "dense"}}, r"codec\.down: no codec 'dnse'"),
        ({"name": "deadzone", "bits": 9}, r"^codec\.bits must"),
    ],
)
def test_what_is_wrong_with_one_direction_is_said_of_that_one(codec: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config.load(PARAMS, {"codec": codec})
