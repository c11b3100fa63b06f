"""The experiment's settings: one frozen dataclass a block of ``params.yaml``.

``params.yaml`` says what is computed; where (store, folders, workers, tracking) is said by flow
parameters and the environment.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fedx_core.base import limits, parsing, strict_yaml
from fedx_core.base.errors import ConfigError
from fedx_core.base.nearest import hint
from fedx_core.base.parsing import (
    Block,
    Directions,
    EachWay,
    Plugin,
    Slot,
    as_plain,
    both_ways,
)
from fedx_core.base.training import Schedule, TrainingConfig, check_warmup, follows_length, laid_out

__all__ = ["Plugin", "Schedule", "TrainingConfig", "as_plain", "follows_length", "laid_out"]


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(Block):
    """The server's reference set, drawn from the validation split.

    Args:
        per_class: images of each class.
        absent: ``error`` or ``skip`` classes that no validation image bears, as in a few images of
            many classes.
        public: images without labels that server steps may learn from, drawn from the rest of the
            validation split, so that no other part has them; 0 for none.
    """

    per_class: int
    absent: Literal["error", "skip"] = "error"
    public: int = 0

    def __post_init__(self) -> None:
        limits.at_least(1, per_class=self.per_class)
        limits.at_least(0, public=self.public)


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
        name: of a model of any family in ``fedx_core/models``; ``resnet6_w24`` is a ResNet6 whose
            stem has 24 channels in place of 64, ``resnet18_w24`` a ResNet18, and so on; the
            narrowest has 8.
        weights: a safetensors file to start from; empty starts from random weights.
    """

    name: str
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Block):
    """Which round is best, and when a run has stopped gaining.

    How both are found: :mod:`fedx_core.rounds.selection`.

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
        close_at: a round closes as soon as so many updates count, and whoever has not reported by
            then does not count in it; 0 waits for all. At most the cohort, and at least
            min_reports. The buffer of FedBuff (Nguyen et al. 2022, arXiv 2106.06639).
        staleness: rounds after its own in which an update that comes late still counts, as a change
            with a smaller weight (how: :mod:`fedx_core.rounds.staleness`); 0 counts none. Until
            then its client is asked for nothing else. Needs close_at or round_timeout.
        keep_states: committed states that ``fedx gc`` keeps.
        selection: keep the best round's model and stop early; null does neither.
        max_update_norm: an update whose values, as they are sent, have a larger Euclidean norm is
            refused; 0 refuses none.
        first_model: ``whole`` sends the first weights; ``seed`` lets clients draw them by
            themselves, from a seed in the plan, at no byte. Whoever's are others by their hash is
            sent them all the same.
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
    close_at: int = 0
    staleness: int = 0
    clip: float | Literal["none"] = 10.0
    first_model: Literal["whole", "seed"] = "whole"

    def __post_init__(self) -> None:
        for name in ("rounds", "attempts", "keep_states"):
            limits.at_least(1, **{name: getattr(self, name)})
        limits.within("(0, 1]", participation=self.participation)
        for name in ("min_reports", "round_timeout", "max_update_norm", "grace", "close_at"):
            limits.at_least(0, **{name: getattr(self, name)})
        limits.at_least(0, staleness=self.staleness)
        if self.staleness and not (self.close_at or self.round_timeout):
            raise ConfigError(
                f"staleness is {self.staleness}, and rounds that wait for all have nobody late; "
                "set close_at or round_timeout, or set staleness to 0"
            )
        if 0 < self.close_at < self.min_reports:
            raise ConfigError(
                f"close_at is {self.close_at} and min_reports is {self.min_reports}: a round that "
                "closes so early never has enough; raise close_at, or lower min_reports"
            )
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
        codec: a file of ``fedx_core/codec``, or one for each direction: ``{down: ..., up: ...}``.
        support: which weights exist at all: a file of ``fedx_core/supports``.
        recovery: what the server does for its model after each pruning event: a file of
            ``fedx_core/recovery``.
    """

    seed: int
    prepare: tuple[str, ...]
    dataset: str
    datasets: Mapping[str, DatasetConfig]
    model: ModelConfig
    training: TrainingConfig
    federation: FederationConfig
    method: Annotated[Plugin, Slot("methods")]
    codec: Annotated[Directions, EachWay("codec")]
    # Runs from before these were settings lack them.
    support: Annotated[Plugin, Slot("supports")] = field(
        default_factory=lambda: Plugin(name="dense")
    )
    recovery: Annotated[Plugin, Slot("recovery")] = field(
        default_factory=lambda: Plugin(name="none")
    )

    def __post_init__(self) -> None:
        for key, names in (("dataset", [self.dataset]), ("prepare", self.prepare)):
            for name in names:
                if name not in self.datasets:
                    raise ConfigError(f"{key}: {unknown_data_set(name, self.datasets)}")
        check_warmup("training.schedule", self.training.schedule, self.federation.rounds)


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
        raise ConfigError(
            f"{path} must hold one mapping of blocks, got {type(raw).__name__}; `fedx init` in an "
            "empty folder writes one to start from"
        )
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
            if parents[0] == "codec" and depth == 1:
                values["codec"] = block = both_ways(block)
            if block.get(parent) is None:
                block[parent] = {}
            block = block[parent]
            if not isinstance(block, dict):
                raise ConfigError(
                    f"{'.'.join(parents[: depth + 1])} is no block, so {path} can't be set; "
                    "docs/parameters.md lists all settings"
                )
        # Which other settings a block has hangs on such a name, so they go with it.
        renamed = leaf == "name" and block.get("name") != value
        if renamed and ".".join(parents) in parsing.choosing(ExperimentConfig, values):
            block.clear()
        block[leaf] = value
    return values


def value(settings: ExperimentConfig, path: str) -> Any:
    """Return one setting by dotted path, as ``params.yaml`` would say it; None if there is none."""
    plain = as_plain(settings)
    first, *rest = path.split(".")
    if first == "codec" and rest and rest[0] in ("down", "up"):
        plain["codec"] = both_ways(plain["codec"])
    for part in (first, *rest):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain


def _copied(raw: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(json.dumps(raw))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"settings must be numbers, text, switches, lists and blocks ({error}); put anything "
            "else in quotes"
        ) from error
    return values


def unknown_data_set(name: str, datasets: Mapping[str, DatasetConfig]) -> str:
    """Say that there is no such data set, and which there are."""
    return (
        f"no data set {name!r} in datasets; {hint(name, datasets)}choose one of "
        f"{', '.join(datasets)}, or describe it there"
    )
