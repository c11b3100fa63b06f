"""The experiment's settings: one frozen dataclass a block of ``params.yaml``.

``params.yaml`` says what is computed; where (store, folders, workers, tracking) is said by flow
parameters and the environment.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fedx_core import limits, parsing, strict_yaml
from fedx_core.errors import ConfigError
from fedx_core.nearest import hint
from fedx_core.parsing import Block, Plugin, Slot, as_plain

__all__ = ["Plugin", "as_plain"]


MOST_THREADS = 1024
"""Of torch in one process; it makes them all, and a plan from elsewhere may ask for any number."""


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
        limits.at_least(1, per_class=self.per_class)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Block):
    """One data set and what is made of it.

    Args:
        source: a file of ``fedx_core/data`` and its parameters.
        partition: a file of ``fedx_core/partition`` and its parameters.
        reference: how large the server's reference set is.
    """

    source: Annotated[Plugin, Slot("data")]
    partition: Annotated[Plugin, Slot("partition")]
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
        optimiser_state: ``fresh`` starts Adam anew in each round; the paper does not say. ``kept``
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
            limits.at_least(1, **{name: getattr(self, name)})
        limits.at_most(MOST_THREADS, threads=self.threads)
        check_device(self.device)
        limits.positive(learning_rate=self.learning_rate)
        limits.at_least(0, weight_decay=self.weight_decay)


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
        limits.at_least(0, patience=self.patience)
        limits.at_least(0, min_delta=self.min_delta)


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
            limits.at_least(1, **{name: getattr(self, name)})
        limits.within("(0, 1]", participation=self.participation)
        for name in ("min_reports", "round_timeout", "max_update_norm", "grace"):
            limits.at_least(0, **{name: getattr(self, name)})
        if self.clip != "none":
            limits.at_least(1, clip=self.clip)


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
    method: Annotated[Plugin, Slot("methods")]
    codec: Annotated[Plugin, Slot("codec")]

    def __post_init__(self) -> None:
        for key, names in (("dataset", [self.dataset]), ("prepare", self.prepare)):
            for name in names:
                if name not in self.datasets:
                    raise ConfigError(f"{key}: {unknown_data_set(name, self.datasets)}")


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
    try:
        raw = strict_yaml.read(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no settings at {path}; `fedx init` writes params.yaml, or pass --params FILE"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"can't read {path} ({error.strerror}); name another file with --params"
        ) from error
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
    return parsing.parsed(ExperimentConfig, _copied(raw))


def override(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values with some replaced by dotted path.

    Raises:
        ConfigError: the path leads through something that is no block.
    """
    values = _copied(raw)
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


def _copied(raw: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(json.dumps(raw))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"settings must be numbers, text, switches, lists and blocks ({error})"
        ) from error
    return values


def unknown_data_set(name: str, datasets: Mapping[str, DatasetConfig]) -> str:
    """Say that there is no such data set, and which there are."""
    return (
        f"no data set {name!r} in datasets; {hint(name, datasets)}choose one of "
        f"{', '.join(datasets)}, or describe it there"
    )


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
