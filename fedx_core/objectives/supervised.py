"""A model learns the labels of images: cross-entropy for one label, binary for several.

Source: FedX, section IV-B; smoothing after Szegedy et al., Rethinking the Inception Architecture,
CVPR 2016, section 7.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core.base.config import TrainingConfig
from fedx_core.objectives import base
from fedx_core.objectives.base import Seen, Task


@dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Learn labels, as the paper does."""

    needs_labels: ClassVar[bool] = True
    answers: ClassVar[bool] = True

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Return logits, (n, classes)."""
        return (network(seen.views[0]),)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare by logits."""
        return ((outputs[0].flatten(1), seen.views[0]),)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Compare logits and labels, smoothed and weighed as the settings say."""
        (logits,) = outputs
        assert seen.targets is not None
        return loss(logits.float(), seen.targets, task)


def loss(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Return the mean loss.

    Args:
        logits: float32 (n, classes).
        targets: int64 (n,) or float32 (n, classes).
        task: kind of labels, smoothing, and weights of classes.
    """
    smoothing = task.settings.label_smoothing
    weights = class_weights(task.settings, task.labels, logits.shape[1])
    weights = None if weights is None else weights.to(logits)
    if task.label_kind == "single":
        return nn.functional.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
    softened = targets * (1 - smoothing) + smoothing / 2 if smoothing else targets
    return nn.functional.binary_cross_entropy_with_logits(logits, softened, pos_weight=weights)


def class_weights(
    settings: TrainingConfig, labels: NDArray[np.integer], classes: int
) -> Tensor | None:
    """Return a weight for each class; None where all count the same.

    ``balanced`` gives a class of one label ``n / (k n_c)``, n_c being its images of n and k the
    classes that occur; a class of several labels ``(n - n_c) / n_c``, at least one over n. A class
    that no image bears has weight 1.

    Args:
        settings: what is asked for.
        labels: int64 (n,) or 0/1 (n, classes).
        classes: outputs of the model.
    """
    if settings.class_weights == "none":
        return None
    if settings.class_weights != "balanced":
        return torch.tensor(settings.class_weights)
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=classes)
        weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        counts = np.asarray(labels, np.int64).sum(0)
        weights = np.maximum(len(labels) - counts, 1 / len(labels)) / np.maximum(counts, 1)
    return torch.from_numpy(np.where(counts, weights, 1.0)).float()
