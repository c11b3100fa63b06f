"""The only local training loop. A method changes a step through a :class:`LocalRule`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core.base import seeding
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.base.state import StateDict
from fedx_core.base.training import TrainingConfig, check_device
from fedx_core.images import resident
from fedx_core.images.examples import Examples
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels
from fedx_core.learning import optimisers
from fedx_core.objectives import supervised
from fedx_core.objectives.base import Objective, Seen, Task

_CPU = torch.device("cpu")
LAST_ROUND = "last_round"
"""Entry of what a client keeps of an objective: the round in which it last trained."""
SUPERVISED = supervised.Objective()


@dataclass(frozen=True)
class LocalRule:
    """What a method changes in a local step; all parts are optional.

    Args:
        effective: trained parameters by name to those that the forward pass uses.
        penalty: added to the loss; sees the model.
        penalty_of_batch: likewise; sees what the objective shows of the batch and its outputs, too.
        before_step: called when gradients are there and before the optimiser moves.
        after_step: called after the optimiser moved, such as to project weights.
        at_end: called once with the last batch's gradients at the trained weights, by parameter;
            running statistics don't count that batch again.
    """

    effective: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    penalty_of_batch: Callable[[nn.Module, Seen, tuple[Tensor, ...]], Tensor] | None = None
    before_step: Callable[[nn.Module], None] | None = None
    after_step: Callable[[nn.Module], None] | None = None
    at_end: Callable[[dict[str, Tensor]], None] | None = None


def hold(support: Mapping[str, Tensor], rule: LocalRule | None = None) -> LocalRule:
    """Let no gradient reach what is not kept: then moments and decay leave a zero a zero.

    Args:
        support: bool tensors that broadcast to the parameters' shapes, True = kept.
        rule: what else a step does; its own changes of gradients come first.
    """
    rule = rule or LocalRule()

    def before_step(model: nn.Module) -> None:
        if rule.before_step is not None:
            rule.before_step(model)
        for name, parameter in model.named_parameters():
            if name in support and parameter.grad is not None:
                parameter.grad.mul_(support[name].to(parameter.device, non_blocking=True))

    return replace(rule, before_step=before_step)


def fit(
    model: nn.Module,
    examples: Examples,
    *,
    label_kind: LabelKind,
    pixels: Pixels,
    settings: TrainingConfig,
    seed: int,
    rule: LocalRule | None = None,
    moments: StateDict | None = None,
    round_index: int = 1,
    objective: Objective = SUPERVISED,
    beside: StateDict | None = None,
) -> float:
    """Train a network in place for some epochs.

    Args:
        model: a network that ``objective`` built; changed in place and left on the CPU.
        examples: the client's training part.
        label_kind: of the labels.
        pixels: how images become inputs.
        settings: epochs, batch size, optimiser, learning rate and so on.
        seed: of order and flips; equal seeds give equal weights, bit for bit on one CPU.
        rule: what the method changes in a step.
        moments: the optimiser's state, such as ``exp_avg/<parameter>`` (:data:`optimisers.PARTS`)
            and ``step/<parameter>``; gone on from, and changed in place as the model is. Parameters
            that it lacks start fresh. None starts all fresh and keeps nothing.
        round_index: from 1, for the learning rate's schedule.
        objective: what a step minimises.
        beside: what the client keeps of the objective, such as a momentum encoder; gone on from,
            and changed in place. Where it is empty it begins anew, and None keeps nothing.

    Returns:
        Mean loss over the last epoch, penalty included.

    Raises:
        DataError: there are no examples, or a single one for a model with BatchNorm.
        ConfigError: a batch size of one for a model with BatchNorm.
    """
    least = least_batch(model, objective)
    check_batches(settings.batch_size, least, objective)
    if len(examples) < least:
        raise DataError(too_few(len(examples), least, objective))
    rule = rule or LocalRule()
    device = pick_device(settings.device)
    _moved(model, device).train()
    if settings.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)
    parameters = dict(model.named_parameters())
    optimiser = optimisers.build(parameters, settings, moments or {})
    count = seen_in_epoch(len(examples), settings.batch_size, least)
    steps = -(-count // settings.batch_size)
    task = Task(label_kind=label_kind, labels=examples.labels, pixels=pixels, settings=settings)
    kept = _beside(objective, model, beside, round_index)
    amp = settings.amp if device.type == "cuda" else settings.cpu_amp
    total = torch.zeros((), dtype=torch.float64, device=device)
    for epoch in range(settings.epochs):
        total.zero_()
        order = seeding.derive(seed, epoch)
        for step, (images, labels) in enumerate(batches(examples, settings, order, device, least)):
            seen = objective.views(
                model,
                pixels.to_input(images, device),
                _targets(labels, label_kind, device) if objective.needs_labels else None,
                task,
                seeding.numpy_generator(seeding.derive(seed, epoch, step, "views")),
            )

            def loss_of_batch(seen: Seen = seen) -> Tensor:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                    outputs = _outputs(objective, model, seen, rule)
                found = objective.loss(outputs, seen, task, kept)
                if rule.penalty is not None:
                    found = found + rule.penalty(model)
                if rule.penalty_of_batch is not None:
                    found = found + rule.penalty_of_batch(model, seen, outputs)
                return found

            loss = loss_of_batch()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if rule.before_step is not None:
                rule.before_step(model)
            optimiser.param_groups[0]["lr"] = settings.rate(round_index, epoch, step, steps)
            optimiser.step()
            if rule.after_step is not None:
                rule.after_step(model)
            if kept is not None:
                objective.after_step(model, kept)
            total += loss.detach().double() * len(labels)
    optimiser.zero_grad(set_to_none=True)  # as large as the model, and of no more use
    if rule.at_end is not None:
        with _buffers_kept(model):
            # An objective may leave some unused, such as a norm that only features pass.
            gradients = torch.autograd.grad(
                loss_of_batch(), list(parameters.values()), materialize_grads=True
            )
        rule.at_end(dict(zip(parameters, gradients, strict=True)))
    _moved(model, torch.device("cpu"))
    if moments is not None:
        moments.clear()
        moments.update(optimisers.state_of(optimiser, parameters))
    if kept is not None and beside is not None:
        beside.clear()
        beside.update({name: value.detach().cpu() for name, value in kept.state_dict().items()})
        beside[LAST_ROUND] = torch.tensor([round_index])
    return float(total) / count


def needs_pairs(model: nn.Module) -> bool:
    """Tell whether a model can't train on one image: BatchNorm has no variance of one value."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def least_batch(model: nn.Module, objective: Objective) -> int:
    """Return how many images a batch needs at least."""
    return max(objective.least_batch, 2 if needs_pairs(model) else 1)


def check_batches(batch_size: int, least: int, objective: Objective) -> None:
    """Refuse batches that the model or the objective can't learn from.

    Raises:
        ConfigError: says what to change.
    """
    if batch_size >= least:
        return
    if objective.least_batch < least:
        raise ConfigError(
            f"training.batch_size: BatchNorm has no variance of one image, got {batch_size}; set "
            "it to 2 or more, or choose a model without BatchNorm, such as convnextv2_atto"
        )
    raise ConfigError(
        f"training.batch_size: training.objective compares the images of a batch and needs {least} "
        f"or more of them, got {batch_size}; set it to 64 or so"
    )


def too_few(count: int, least: int, objective: Objective) -> str:
    """Say why a client with so many images can't train."""
    if count == 0:
        return "a client has no training examples; lower the number of clients"
    if objective.least_batch < least:
        return (
            f"a client has {count} training image, and BatchNorm needs 2 to train; give it more, "
            "leave it out of the partition, or choose a model without BatchNorm, such as "
            "convnextv2_atto"
        )
    return (
        f"a client has {count} training image(s), and training.objective needs {least} in a batch; "
        "give it more, or leave it out of the partition"
    )


def seen_in_epoch(count: int, batch_size: int, least: int) -> int:
    """Count the images that one epoch of :func:`batches` shows a model."""
    rest = count % batch_size
    return count - rest if rest < least and rest < count else count


def batches(
    examples: Examples,
    settings: TrainingConfig,
    seed: int,
    device: torch.device = _CPU,
    least: int = 2,
) -> Iterator[tuple[resident.Images, NDArray[np.integer]]]:
    """Yield one epoch's batches in a random order, each image flipped at random if asked for.

    Args:
        examples: to draw from.
        settings: batch size and flips.
        seed: of order and flips, which are drawn on the host: the same on any device.
        device: where the model is; images for a GPU are tensors on it, else arrays.
        least: leave out what remains for a last batch if it is fewer images than that, others in
            each epoch; BatchNorm needs 2.
    """
    random = seeding.numpy_generator(seed)
    images = resident.place(examples.images, device)
    order = random.permutation(len(examples))
    order = order[: seen_in_epoch(len(order), settings.batch_size, least)]
    for start in range(0, len(order), settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        batch = resident.take(images, chosen, device)
        labels: NDArray[np.integer] = examples.labels[chosen]
        if settings.flips:
            for axis in (2, 3):
                flipped = random.random(len(chosen)) < 0.5
                resident.mirror_(batch, flipped, axis)
                if labels.ndim == 3:  # maps turn with their images
                    resident.mirror_(labels, flipped, axis - 1)
        yield batch, labels


def pick_device(name: str) -> torch.device:
    """Turn ``auto`` into a GPU where there is one, and any other name into that device.

    Raises:
        ConfigError: it names no device, or a GPU that this process does not see.
    """
    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        sees = f"{there} GPUs, the last cuda:{there - 1}," if there else "no GPU"
        raise ConfigError(
            f"device {name!r} was asked for, but torch sees {sees} here; choose auto or cpu "
            "(training.device, --device), or look at nvidia-smi, CUDA_VISIBLE_DEVICES and "
            "torch.version.cuda"
        )
    return device


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Let a forward pass in train mode leave BatchNorm's running statistics as they are."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    # `to` visits every tensor of every module even where none has to move.
    return model if next(model.parameters()).device == device else model.to(device)


def _beside(
    objective: Objective, model: nn.Module, kept: StateDict | None, round_index: int
) -> nn.Module | None:
    """Set up what stands beside a network, with the values that its client has kept."""
    found = objective.beside(model)
    if found is not None and kept:
        found.load_state_dict({name: v for name, v in kept.items() if name != LAST_ROUND})
        objective.returned(found, round_index - 1 - int(kept[LAST_ROUND]))
    return found


class _Outputs(nn.Module):
    """An objective's outputs as a module's, so that torch can run it with other weights."""

    def __init__(self, objective: Objective, network: nn.Module) -> None:
        super().__init__()
        self.objective, self.network = objective, network

    def forward(self, seen: Seen) -> tuple[Tensor, ...]:
        return self.objective.outputs(self.network, seen)


def _outputs(
    objective: Objective, model: nn.Module, seen: Seen, rule: LocalRule
) -> tuple[Tensor, ...]:
    if rule.effective is None:
        return objective.outputs(model, seen)
    effective = rule.effective(dict(model.named_parameters()))
    weights = {f"network.{name}": value for name, value in effective.items()}
    return torch.func.functional_call(_Outputs(objective, model), weights, (seen,))  # type: ignore[no-any-return] # torch


def _targets(labels: NDArray[np.integer], label_kind: LabelKind, device: torch.device) -> Tensor:
    targets = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
    return targets.float() if label_kind == "multi" else targets.long()
