"""The experiment's settings: one frozen dataclass a block of ``params.yaml``.

``params.yaml`` says what is computed; where (store, folders, workers, tracking) is said by flow
parameters and the environment. Only this file imports pydantic, and only when a file is read.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fedx_core import plugins
from fedx_core.errors import ConfigError


class Block:
    """A block of ``params.yaml``; keys that it does not know are refused."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Plugin(Block):
    """A plug-in by its file's name, with its own parameters beside the name."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, package: str) -> Any:
        """Construct it from its package, such as ``methods``."""
        return plugins.build(package, self.name, self.params)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(Block):
    """The server's reference set, drawn from the validation split.

    Args:
        per_class: images of each class.
        absent: ``error`` or ``skip`` classes that no validation image bears, as in a few images of
            many classes.
    """

    per_class: int
    absent: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        _at_least("reference.per_class", self.per_class, 1)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Block):
    """One data set and what is made of it.

    Args:
        source: a file of ``fedx_core/data`` and its parameters.
        partition: a file of ``fedx_core/partition`` and its parameters.
        reference: how large the server's reference set is.
    """

    source: Plugin
    partition: Plugin
    reference: ReferenceConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Block):
    """The model that the federation trains.

    Args:
        name: an entry of ``fedx_core/models/catalogue.py``.
        weights: a safetensors file to start from; empty starts from random weights.
    """

    name: str
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Block):
    """Local training at a client.

    Args:
        epochs: passes over the client's training part a round.
        batch_size: examples a step.
        learning_rate: of Adam.
        weight_decay: L2 penalty of Adam.
        flips: mirror each image at random, horizontally and vertically.
        normalisation: ``reference`` (mean and deviation of the server's reference set),
            ``published`` (the data set's own), or ``federated`` (clients send counts and sums).
        batch_norm: ``aggregate`` averages BatchNorm's running statistics with the weights, though
            the averaged weights no longer produce them; ``recalibrate`` then measures them anew on
            the server's reference set, at no byte; ``local`` leaves them with the clients, and the
            server measures its own likewise.
        eval_batch_size: images at once in evaluation and relevance.
        device: ``auto`` takes a GPU if there is one; or ``cpu``, ``cuda``, or one of several, such
            as ``cuda:1``.
        amp: 16-bit autocast on a GPU.
        threads: of torch for each client; 1 keeps results independent of the machine's cores.
        memory_format: ``channels_last`` is faster for convolutions on most machines.
        optimiser_state: ``fresh`` starts Adam anew in each round, as the paper does; ``kept``
            leaves its moments and steps with each client, which goes on from them.
        shrink: once units are pruned, clients train and score a model without them: the same
            numbers but for rounding, sooner. The server's model keeps its shape.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    flips: bool
    normalisation: Literal["reference", "published", "federated"]
    batch_norm: Literal["aggregate", "recalibrate", "local"]
    eval_batch_size: int
    device: str
    amp: bool
    threads: int
    memory_format: Literal["contiguous", "channels_last"]
    # Plans from before these were settings lack them.
    optimiser_state: Literal["fresh", "kept"] = "fresh"
    shrink: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "threads"):
            _at_least(f"training.{name}", getattr(self, name), 1)
        check_device(self.device)
        if not self.learning_rate > 0:
            raise ConfigError(f"training.learning_rate must be positive, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise ConfigError(f"training.weight_decay must be 0 or more, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Block):
    """Which round is best, and when a run has stopped gaining; see :mod:`fedx_core.selection`.

    Args:
        metric: of the tuning set, such as ``overall_accuracy``; ``loss`` is better when lower.
        patience: rounds without a gain after which the run stops; 0 never stops.
        min_delta: a round is better only if it gains more than this over the best one.
    """

    metric: str
    patience: int
    min_delta: float

    def __post_init__(self) -> None:
        _at_least("federation.selection.patience", self.patience, 0)
        if not self.min_delta >= 0:
            raise ConfigError(
                f"federation.selection.min_delta must be 0 or more, got {self.min_delta}"
            )


@dataclass(frozen=True, kw_only=True)
class FederationConfig(Block):
    """Rounds and clients.

    Args:
        rounds: rounds in all.
        participation: share of the clients in each round's cohort, in (0, 1].
        min_reports: clients that must report for a round to count; 0 wants the whole cohort, but
            for clients whose answers were refused, as long as half of the cohort is left.
        attempts: how often a failed client is tried in one round.
        round_timeout: seconds until a client of a round counts as lost, all its tries together; 0
            waits for ever.
        grace: seconds that a round waits beyond round_timeout while fewer than min_reports have
            reported; it goes on as soon as enough have.
        keep_states: committed states that ``fedx gc`` keeps.
        selection: keep the best round's model and stop early; null does neither.
        max_update_norm: an update whose values, as they are sent, have a larger Euclidean norm is
            refused; 0 refuses none.
        clip: a client's change is scaled down to so many times the median of the cohort's, 1 or
            more, and refused from ten times that on; ``none`` does neither. Where nobody goes that
            far, nothing changes.
    """

    rounds: int
    participation: float
    min_reports: int
    attempts: int
    round_timeout: float
    keep_states: int
    # Runs from before these were settings lack them.
    selection: SelectionConfig | None = None
    max_update_norm: float = 0.0
    grace: float = 0.0
    clip: float | Literal["none"] = 10.0

    def __post_init__(self) -> None:
        for name in ("rounds", "attempts", "keep_states"):
            _at_least(f"federation.{name}", getattr(self, name), 1)
        _at_least("federation.min_reports", self.min_reports, 0)
        if not 0 < self.participation <= 1:
            raise ConfigError(
                f"federation.participation must lie in (0, 1], got {self.participation}"
            )
        if self.clip != "none" and not self.clip >= 1:
            raise ConfigError(
                f"federation.clip must be 1 or more, or none to clip nothing, got {self.clip}"
            )
        for name in ("round_timeout", "max_update_norm", "grace"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"federation.{name} must be 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Block):
    """Everything that changes a number.

    Args:
        seed: root of all random draws of the experiment.
        prepare: the data sets that DVC's stages prepare; keys of ``datasets``.
        dataset: the data set that the federation trains on; a key of ``datasets``.
        datasets: all data sets by name.
        model: what is trained.
        training: how a client trains.
        federation: rounds and clients.
        method: a file of ``fedx_core/methods`` and its parameters.
        codec: a file of ``fedx_core/codec``.
    """

    seed: int
    prepare: tuple[str, ...]
    dataset: str
    datasets: Mapping[str, DatasetConfig]
    model: ModelConfig
    training: TrainingConfig
    federation: FederationConfig
    method: Plugin
    codec: Plugin

    def __post_init__(self) -> None:
        for name in (self.dataset, *self.prepare):
            if name not in self.datasets:
                near = difflib.get_close_matches(name, self.datasets, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ConfigError(
                    f"no data set {name!r} in datasets; {hint}"
                    f"choose one of {', '.join(self.datasets)}, or describe it there"
                )


def load(path: Path | str, *overrides: Mapping[str, Any] | None) -> ExperimentConfig:
    """Read and check ``params.yaml``.

    Args:
        path: the file.
        overrides: values by dotted path, such as ``{"method.pruning_rate": 0.9}``; later ones go
            over earlier ones. Naming another plug-in (``method.name``) drops the old one's
            parameters.

    Raises:
        ConfigError: the file is missing or not YAML, or a value has the wrong type, an unknown
            key (named by its full path) or an impossible value.
    """
    import yaml

    try:
        raw = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"no settings at {path}; run in a folder with params.yaml or pass --params FILE"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold one mapping of blocks, got {type(raw).__name__}")
    for values in overrides:
        raw = override(raw, values or {})
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> ExperimentConfig:
    """Check plain nested values and turn them into an :class:`ExperimentConfig`.

    Raises:
        ConfigError: as :func:`load`.
    """
    values = json.loads(json.dumps(raw))
    for block, package in (("method", "methods"), ("codec", "codec")):
        values[block] = _split_plugin(values, block, package)
    if isinstance(values.get("datasets"), dict):
        for name, dataset in values["datasets"].items():
            if isinstance(dataset, dict):
                for block, package in (("source", "data"), ("partition", "partition")):
                    dataset[block] = _split_plugin(
                        dataset, block, package, prefix=f"datasets.{name}."
                    )
    config: ExperimentConfig = _validate(ExperimentConfig, values, "")
    return config


def override(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values with some replaced by dotted path.

    Raises:
        ConfigError: the path leads through something that is no block.
    """
    values: dict[str, Any] = json.loads(json.dumps(raw))
    # Names first, since naming another plug-in empties its block.
    for path, value in sorted(overrides.items(), key=lambda item: not item[0].endswith(".name")):
        *parents, leaf = path.split(".")
        block = values
        for depth, parent in enumerate(parents):
            if block.get(parent) is None:
                block[parent] = {}
            block = block[parent]
            if not isinstance(block, dict):
                raise ConfigError(f"{'.'.join(parents[: depth + 1])} is no block; can't set {path}")
        is_plugin = bool(parents) and parents[-1] in (
            "method",
            "relevance",
            "codec",
            "source",
            "partition",
        )
        if leaf == "name" and is_plugin and block.get("name") != value:
            block.clear()
        block[leaf] = value
    return values


def as_plain(config: Any) -> Any:
    """Turn a configuration back into what ``params.yaml`` would say."""
    if isinstance(config, Plugin):
        return {"name": config.name, **as_plain(config.params)}
    if dataclasses.is_dataclass(config):
        return {f.name: as_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: as_plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [as_plain(value) for value in config]
    return config


def _split_plugin(
    block: Mapping[str, Any], key: str, package: str, prefix: str = ""
) -> dict[str, Any]:
    """Part a plug-in's name from its parameters, and check those against its class."""
    path = f"{prefix}{key}"
    value = block.get(key)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ConfigError(f"{path}: wanted a block with a name, got {value!r}")
    params = {name: v for name, v in value.items() if name != "name"}
    try:
        plugin = plugins.load(package, value["name"])
        plugins.check_names(package, value["name"], params)
    except ConfigError as error:
        raise type(error)(f"{path}: {error}") from error
    _validate(plugin, params, f"{path}.")
    return {"name": value["name"], "params": params}


def _validate(kind: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    import pydantic

    adapter = pydantic.TypeAdapter(kind)
    try:
        return adapter.validate_python(values, strict=False)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = prefix + ".".join(str(part) for part in first["loc"])
        got = first.get("input")
        shown = f", got {got!r}" if isinstance(got, str | int | float | bool | None) else ""
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{path}: {first['msg']}{shown}{more}") from error


def check_device(name: str) -> None:
    """Refuse what can't name a device; whether the machine has it is not asked.

    Raises:
        ConfigError: lists what can.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise ConfigError(
            f"training.device: no device {name!r}; choose auto (a GPU if there is one), cpu, cuda, "
            "or one of several GPUs as cuda:1"
        )


def _at_least(path: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{path} must be {least} or more, got {value}")
