"""The only local training loop. A method changes a step through a :class:`LocalRule`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core import resident, seeding
from fedx_core.config import TrainingConfig, check_device
from fedx_core.errors import ConfigError, DataError
from fedx_core.examples import Examples, LabelKind
from fedx_core.pixels import Pixels
from fedx_core.state import StateDict

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class LocalRule:
    """What a method changes in a local step; all parts are optional.

    Args:
        effective: trained parameters by name to those that the forward pass uses.
        penalty: added to the loss; sees the model.
        before_step: called when gradients are there and before the optimiser moves.
        after_step: called after the optimiser moved, such as to project weights.
        at_end: called once with the last batch's gradients at the trained weights, by parameter;
            running statistics don't count that batch again.
    """

    effective: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    before_step: Callable[[nn.Module], None] | None = None
    after_step: Callable[[nn.Module], None] | None = None
    at_end: Callable[[dict[str, Tensor]], None] | None = None


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
) -> float:
    """Train a model in place for some epochs with Adam.

    Args:
        model: changed in place; left on the CPU.
        examples: the client's training part.
        label_kind: ``single`` trains with cross-entropy, ``multi`` with binary cross-entropy.
        pixels: how images become inputs.
        settings: epochs, batch size, learning rate and so on.
        seed: of order and flips; equal seeds give equal weights, bit for bit on one CPU.
        rule: what the method changes in a step.
        moments: Adam's state, as ``exp_avg/<parameter>``, ``exp_avg_sq/<parameter>`` and
            ``step/<parameter>``; gone on from, and changed in place as the model is. Parameters
            that it lacks start fresh. None starts all fresh and keeps nothing.

    Returns:
        Mean loss over the last epoch, penalty included.

    Raises:
        DataError: there are no examples, or a single one for a model with BatchNorm.
        ConfigError: a batch size of one for a model with BatchNorm.
    """
    pairs = needs_pairs(model)
    check_batches(settings.batch_size, pairs=pairs)
    if len(examples) == 0:
        raise DataError("a client has no training examples; lower the number of clients")
    if pairs and len(examples) == 1:
        raise DataError(
            "a client has 1 training image, and BatchNorm needs 2 to train; give it more, leave it "
            "out of the partition, or choose a model without BatchNorm, such as convnextv2_atto"
        )
    rule = rule or LocalRule()
    device = pick_device(settings.device)
    loss_function = loss_of(label_kind)
    _moved(model, device).train()
    if settings.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)
    # Fused, a step of ResNet18 takes a seventh of the time, and a small model's a fifth.
    optimiser = torch.optim.Adam(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    parameters = dict(model.named_parameters())
    optimiser.state.update(_adam_state(parameters, moments or {}))
    amp = settings.amp and device.type == "cuda"
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    for epoch in range(settings.epochs):
        total.zero_()
        count = 0
        order = seeding.derive(seed, epoch)
        for images, labels in batches(examples, settings, order, device, pairs):
            inputs = pixels.to_input(images, device)
            targets = _targets(labels, label_kind, device)

            def loss_of_batch(x: Tensor = inputs, y: Tensor = targets) -> Tensor:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                    found: Tensor = loss_function(_forward(model, x, rule).float(), y)
                return found if rule.penalty is None else found + rule.penalty(model)

            loss = loss_of_batch()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call] # torch has no types for it
            if rule.before_step is not None:
                rule.before_step(model)
            optimiser.step()
            if rule.after_step is not None:
                rule.after_step(model)
            total += loss.detach().double() * len(labels)
            count += len(labels)
    optimiser.zero_grad(set_to_none=True)  # as large as the model, and of no more use
    if rule.at_end is not None:
        with _buffers_kept(model):
            gradients = torch.autograd.grad(loss_of_batch(), list(parameters.values()))
        rule.at_end(dict(zip(parameters, gradients, strict=True)))
    _moved(model, torch.device("cpu"))
    if moments is not None:
        moments.clear()
        moments.update(
            {
                f"{part}/{name}": value.detach().cpu()
                for name, parameter in parameters.items()
                for part, value in optimiser.state[parameter].items()
            }
        )
    return float(total) / count


def needs_pairs(model: nn.Module) -> bool:
    """Tell whether a model can't train on one image: BatchNorm has no variance of one value."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def check_batches(batch_size: int, *, pairs: bool) -> None:
    """Refuse batches of one image for a model with BatchNorm.

    Raises:
        ConfigError: says what to change.
    """
    if pairs and batch_size == 1:
        raise ConfigError(
            "training.batch_size: BatchNorm has no variance of one image, got 1; set it to 2 or "
            "more, or choose a model without BatchNorm, such as convnextv2_atto"
        )


def seen_in_epoch(count: int, batch_size: int, *, pairs: bool) -> int:
    """Count the images that one epoch of :func:`batches` shows a model."""
    left_out = pairs and count > 1 and batch_size > 1 and count % batch_size == 1
    return count - left_out


def batches(
    examples: Examples,
    settings: TrainingConfig,
    seed: int,
    device: torch.device = _CPU,
    pairs: bool = True,
) -> Iterator[tuple[resident.Images, NDArray[np.integer]]]:
    """Yield one epoch's batches in a random order, each image flipped at random if asked for.

    Args:
        examples: to draw from.
        settings: batch size and flips.
        seed: of order and flips, which are drawn on the host: the same on any device.
        device: where the model is; images for a GPU are tensors on it, else arrays.
        pairs: leave out what remains for a last batch if it is a single image, another one in each
            epoch; for models with BatchNorm.
    """
    random = seeding.numpy_generator(seed)
    images = resident.place(examples.images, device)
    order = random.permutation(len(examples))
    order = order[: seen_in_epoch(len(order), settings.batch_size, pairs=pairs)]
    for start in range(0, len(order), settings.batch_size):
        chosen = order[start : start + settings.batch_size]
        batch = resident.take(images, chosen, device)
        if settings.flips:
            for axis in (2, 3):
                resident.mirror_(batch, random.random(len(chosen)) < 0.5, axis)
        yield batch, examples.labels[chosen]


def loss_of(label_kind: LabelKind) -> nn.Module:
    """Return the paper's loss: cross-entropy for one label, binary cross-entropy for many."""
    return nn.CrossEntropyLoss() if label_kind == "single" else nn.BCEWithLogitsLoss()


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


def _adam_state(
    parameters: Mapping[str, nn.Parameter], moments: StateDict
) -> dict[Tensor, dict[str, Tensor]]:
    """Sort what was kept by parameter, all of it on the parameter's device."""
    found: dict[Tensor, dict[str, Tensor]] = {}
    for name, parameter in parameters.items():
        if f"step/{name}" in moments:
            steps = moments[f"step/{name}"].to(parameter.device, copy=True)
            found[parameter] = {"step": steps} | {
                # In the parameter's memory format: sums over other strides may round differently.
                part: torch.empty_like(parameter).copy_(moments[f"{part}/{name}"])
                for part in ("exp_avg", "exp_avg_sq")
            }
    return found


def _forward(model: nn.Module, inputs: Tensor, rule: LocalRule) -> Tensor:
    if rule.effective is None:
        logits: Tensor = model(inputs)
        return logits
    effective = rule.effective(dict(model.named_parameters()))
    return torch.func.functional_call(model, effective, (inputs,))  # type: ignore[no-any-return] # torch


def _targets(labels: NDArray[np.integer], label_kind: LabelKind, device: torch.device) -> Tensor:
    targets = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
    return targets.long() if label_kind == "single" else targets.float()
