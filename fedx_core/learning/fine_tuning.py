"""Fine-tuning on few labels: a linear probe becomes the head, then the whole network learns.

Source: Kumar et al., Fine-Tuning Can Distort Pretrained Features and Underperform Out-of-
Distribution, ICLR 2022, https://arxiv.org/abs/2202.10054 (a probe first, then all weights).
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedx_core.base import seeding
from fedx_core.base.config import TrainingConfig
from fedx_core.images import strata
from fedx_core.images.examples import Examples
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels
from fedx_core.learning import evaluation, training
from fedx_core.learning.linear import Linear
from fedx_core.learning.training import SUPERVISED
from fedx_core.objectives import supervised
from fedx_core.objectives.base import Task

ENCODER_RATE, HEAD_RATE = 1e-4, 1e-3
"""Learning rates of Adam."""
LOOKS = 10
"""How often, spread over all epochs, the tuning part says which weights are best so far."""


def drawn(labels: NDArray[np.integer], share: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of images, the same of each class, and one of each class at least.

    Args:
        labels: int64 (n,), or 0/1 (n, classes), where an image counts for its rarest label.
        share: in (0, 1].
        seed: of the draw.

    Returns:
        Sorted indices, int64.
    """
    groups, random = strata.strata(labels), seeding.numpy_generator(seed)
    parts = []
    for group in np.unique(groups):
        members = random.permutation(np.flatnonzero(groups == group))
        parts.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(parts))


def fine_tuned(
    encoder: nn.Module,
    probe: Linear,
    examples: Examples,
    tuning: Examples,
    *,
    label_kind: LabelKind,
    pixels: Pixels,
    settings: TrainingConfig,
    seed: int,
    workers: int = 1,
) -> nn.Module:
    """Train an encoder and its probe, and return the weights that score best on the tuning part.

    The weights that it begins with take part in that choice; of equal scores the earliest stays.

    Args:
        encoder: to features; stays as it is.
        probe: fitted to its features of ``examples``.
        examples: with labels.
        tuning: others with labels; where they can't be scored the last weights are taken.
        label_kind: of the labels.
        pixels: how images become inputs.
        settings: epochs, batch size, flips, device and threads are used.
        seed: of order and flips.
        workers: threads that score; they change no result.

    Returns:
        The network in evaluation mode, on the CPU.
    """
    weights, bias = probe.folded()
    head = nn.Linear(weights.shape[1], weights.shape[0])
    head.load_state_dict({"weight": weights, "bias": bias})
    network = nn.Sequential(copy.deepcopy(encoder), head)
    device = training.pick_device(settings.device)
    task = Task(label_kind=label_kind, labels=examples.labels, pixels=pixels, settings=settings)
    optimiser = torch.optim.Adam(
        [
            {"params": list(network[0].parameters()), "lr": ENCODER_RATE},
            {"params": list(head.parameters()), "lr": HEAD_RATE},
        ]
    )
    least = training.least_batch(network, SUPERVISED)

    def score() -> float:
        logits = evaluation.predict(
            network, tuning, pixels=pixels, batch_size=settings.eval_batch_size, device=device,
            workers=workers,
        )  # fmt: skip
        found = evaluation.metrics(logits, tuning.labels, label_kind)
        return found.get(evaluation.PRIMARY[label_kind], 0.0)

    best, most = copy.deepcopy(network.state_dict()), score()
    looks = {round(settings.epochs * (look + 1) / LOOKS) for look in range(LOOKS)}
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    # Fewer images than BatchNorm needs teach the network nothing.
    for epoch in range(settings.epochs if len(examples) >= least else 0):
        network.to(device).train()
        order = seeding.derive(seed, epoch)
        for images, labels in training.batches(examples, settings, order, device, least):
            targets = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
            targets = targets.long() if label_kind == "single" else targets.float()
            loss = supervised.loss(network(pixels.to_input(images, device)).float(), targets, task)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if epoch + 1 in looks and (now := score()) > most:
            most, best = now, copy.deepcopy(network.to("cpu").state_dict())
    torch.set_num_threads(threads)
    network.to("cpu").load_state_dict(best)
    return network.eval()
