"""How a client trains, as settings: optimiser, learning rate over rounds and steps, and more."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.base.parsing import (
    Block,
    Named,
    Plugin,
    Slot,
)

MOST_THREADS = 1024
"""Of torch in one process; it makes them all, and a plan from elsewhere may ask for any number."""


@dataclass(frozen=True, kw_only=True)
class Schedule(Block):
    """How the learning rate changes, over a run's rounds or over the steps of each round.

    Lengths are in rounds over a run, and in epochs over a round.

    Args:
        name: ``constant``; ``cosine`` falls as half a cosine does, to its floor at the end of the
            last round or step; ``step`` falls at once, now and again.
        floor: share of the learning rate below which it does not fall, in [0, 1).
        warmup: how long the rate rises in even steps, the first above zero; 0 begins at the top.
        length: where ``cosine`` ends, and stays at its floor; 0 takes the whole run or round.
        restarts: after how many rounds or epochs ``cosine`` begins at the top again, such as those
            of pruning events; each fall ends where the next one begins.
        every: how long ``step`` waits for each fall.
        factor: what each of its falls leaves of the rate, in (0, 1).
    """

    name: Literal["constant", "cosine", "step"] = "constant"
    floor: float = 0.0
    warmup: float = 0.0
    length: float = 0.0
    restarts: tuple[float, ...] = ()
    every: float | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        limits.within("[0, 1)", floor=self.floor)
        limits.at_least(0, warmup=self.warmup)
        limits.at_least(0, length=self.length)
        if self.name == "step":
            if self.every is None or self.factor is None:
                raise ConfigError(
                    "name step needs every and factor, such as {name: step, every: 10, factor: 0.1}"
                )
            limits.positive(every=self.every)
            limits.within("(0, 1)", factor=self.factor)
        elif self.every is not None or self.factor is not None:
            raise ConfigError(f"every and factor are of step, got name {self.name}; leave them out")
        if self.name == "constant" and self.floor:
            raise ConfigError("floor is of a rate that falls; set name to cosine or step")
        for what in ("length", "restarts"):
            if self.name != "cosine" and getattr(self, what):
                raise ConfigError(f"{what} is of cosine, got name {self.name}; leave it out")
        if list(self.restarts) != sorted({at for at in self.restarts if at > self.warmup}):
            raise ConfigError(
                "restarts must rise, from above warmup on, such as [6, 9], got "
                f"{list(self.restarts)}"
            )

    def left(self, done: float, step: float, length: float) -> float:
        """Return what is left of the learning rate, in (0, 1]; 0 beyond a cosine's end.

        Args:
            done: rounds or epochs before this one, from 0.
            step: what one goes forward: 1 round, or one over an epoch's batches.
            length: of the run or round.
        """
        rising = min(1.0, (done + step) / self.warmup) if self.warmup else 1.0
        if self.every is not None and self.factor is not None:
            # Half a step keeps thirds and tenths from falling one step late.
            falls = int((done + step / 2) / self.every)
            return rising * max(self.factor**falls, self.floor)
        if self.name == "constant":
            return rising
        ends = [*self.restarts, self.length or length]
        begun = max((at for at in self.restarts if at <= done), default=self.warmup)
        whole = max(min((at for at in ends if at > begun), default=begun) - begun, step)
        share = min(max((done - begun) / whole, 0.0), 1.0)
        return rising * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Block):
    """Local training at a client.

    Args:
        epochs: passes over the client's training part per round.
        batch_size: examples per step.
        learning_rate: of the optimiser, at its highest.
        weight_decay: L2 penalty in the gradient of ``adam`` and ``sgd``; with ``adamw``, the share
            of each weight that a step takes off, times the learning rate.
        flips: mirror each image at random, horizontally and vertically.
        normalisation: ``reference`` (mean and deviation of the server's reference set),
            ``published`` (the data set's own), or ``federated`` (clients send counts and sums).
        batch_norm: ``recalibrate`` has the server measure BatchNorm's running statistics on its
            reference set after each aggregation, so that they need not travel; ``aggregate``
            averages clients' as if they were weights, though the averaged weights no longer
            produce them; ``local`` leaves them with the clients, and the server measures its own.
        eval_batch_size: images at once in evaluation and relevance.
        device: ``auto`` takes a GPU if there is one; or ``cpu``, ``cuda``, or one of several, such
            as ``cuda:1``.
        amp: 16-bit autocast on a GPU.
        cpu_amp: 16-bit autocast on a CPU: sooner, if the processor computes with 16 bits itself
            (AVX-512 BF16 or AMX), and much later if it doesn't.
        threads: of torch for each client; 1 keeps results independent of the machine's cores.
        memory_format: ``channels_last`` is faster for convolutions on most machines.
        optimiser_state: ``fresh`` starts the optimiser anew in each round; the paper does not say.
            ``kept`` leaves its moments and steps with each client, which goes on from them.
        shrink: once units are pruned, clients train and score a model without them: the same
            numbers but for rounding, sooner. The server's model keeps its shape.
        optimiser: ``adam``, ``adamw`` or ``sgd``, torch's own.
        momentum: of ``sgd``, in [0, 1).
        nesterov: of ``sgd``; take the gradient where the momentum leads.
        schedule: how the learning rate changes from round to round. A cosine is laid out for the
            rounds that a run begins with; in rounds that are added later it stays at its floor.
        round_schedule: how it changes from step to step, anew in each round; both multiply.
        label_smoothing: share of each target that is spread over all classes, in [0, 1); of several
            labels, moved towards one half.
        objective: a file of ``fedx_core/objectives`` and its parameters: what a step minimises.
            ``supervised`` learns labels; all others need none, and are scored by the nearest
            neighbours of the reference set's images.
        class_weights: ``none``; ``balanced``, which makes up for how often each class occurs among
            a client's own images; or a list with a weight for each class. With one label per image,
            images count by the weight of their class; with several, those that bear a label count
            by its weight against those that don't.
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
    cpu_amp: bool = False
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.0
    nesterov: bool = False
    schedule: Annotated[Schedule, Named()] = field(default_factory=Schedule)
    round_schedule: Annotated[Schedule, Named()] = field(default_factory=Schedule)
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    objective: Annotated[Plugin, Slot("objectives")] = field(
        default_factory=lambda: Plugin(name="supervised")
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "threads"):
            limits.at_least(1, **{name: getattr(self, name)})
        limits.at_most(MOST_THREADS, threads=self.threads)
        check_device(self.device)
        limits.positive(learning_rate=self.learning_rate)
        limits.at_least(0, weight_decay=self.weight_decay)
        limits.within("[0, 1)", momentum=self.momentum)
        limits.within("[0, 1)", label_smoothing=self.label_smoothing)
        if self.optimiser != "sgd" and (self.momentum or self.nesterov):
            raise ConfigError(
                f"momentum and nesterov are of sgd, got optimiser {self.optimiser}; set optimiser "
                "to sgd, or leave them out"
            )
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a momentum, got 0; set momentum to 0.9 or so")
        if not isinstance(self.class_weights, str):
            _check_weights(self.class_weights)
        check_warmup("round_schedule", self.round_schedule, self.epochs)

    def rate(self, round_index: int, epoch: int, batch: int, batches: int) -> float:
        """Return the learning rate of one step.

        Args:
            round_index: from 1; a cosine's length must be known, see :func:`laid_out`.
            epoch: of the round, from 0.
            batch: of the epoch, from 0.
            batches: of each epoch.
        """
        over_rounds = self.schedule.left(round_index - 1, 1, self.schedule.length or 1)
        over_steps = self.round_schedule.left(epoch + batch / batches, 1 / batches, self.epochs)
        return self.learning_rate * over_rounds * over_steps


def follows_length(training: TrainingConfig) -> bool:
    """Tell whether a run's first rounds depend on how many rounds it has."""
    return training.schedule.name == "cosine" and not training.schedule.length


def laid_out(training: TrainingConfig, rounds: int) -> TrainingConfig:
    """Give the learning rate's schedule the length of a run, so that clients can follow it."""
    if not follows_length(training):
        return training
    return replace(training, schedule=replace(training.schedule, length=float(rounds)))


def check_warmup(name: str, schedule: Schedule, length: float) -> None:
    """Refuse a schedule that does not outlast its warm-up."""
    length = schedule.length or length
    if schedule.warmup >= length:
        raise ConfigError(
            f"{name}.warmup must be less than the {length:g} rounds or epochs that the schedule "
            f"has, got {schedule.warmup:g}; lower it, or leave it out"
        )


def _check_weights(weights: Sequence[float]) -> None:
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(
            "class_weights must be none, balanced, or a list with a positive weight for each "
            f"class, got {list(weights)}"
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
