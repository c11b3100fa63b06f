"""A model learns the class of each pixel: cross-entropy of the pixels whose class is known.

The network is a residual network with a decoder (:mod:`fedx_core.models._unet`).

Source: Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015,
https://arxiv.org/abs/1411.4038, section 4; smoothing and weights as in :mod:`.supervised`.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.images import strata
from fedx_core.images.label_values import LabelKind
from fedx_core.models import resnet
from fedx_core.models._unet import DECODER, UNet
from fedx_core.objectives import base
from fedx_core.objectives.base import Seen, Task


@dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Learn a class for each pixel; for residual networks.

    Args:
        width: channels of the decoder.
    """

    needs_labels: ClassVar[bool] = True
    answers: ClassVar[bool] = True
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("pixels",)
    reads: ClassVar[tuple[str, ...]] = (f"{DECODER}.0.above.weight",)

    width: int = 32

    def __post_init__(self) -> None:
        limits.at_least(1, width=self.width)
        limits.at_most(1024, width=self.width)

    def check(self, model: nn.Module, family: str) -> None:
        """Refuse what has no maps of falling size."""
        if not resnet.stages(model):
            raise ConfigError(
                "training.objective segmentation reads maps of several sizes, which residual "
                f"networks have; the model is of the family {family}. Choose resnet6, resnet18 or "
                "resnet50"
            )

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Put a decoder in the classifier's place."""
        last = model.get_submodule(classifier)
        assert isinstance(last, nn.Linear)
        stages = tuple(resnet.stages(model))
        return UNet(model, stages, classifier, self.width, last.out_features)

    def also_reads(self, network: nn.Module) -> dict[str, str]:
        """Pair the decoder's part that reads a stage's map with the encoder's layer that does."""
        *finer, _ = resnet.stages(network).values()
        return {
            f"{DECODER}.{level}.beside.weight": reader
            for level, reader in enumerate(reversed(finer))
        }

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Return logits, (n, classes, height, width)."""
        return (network(seen.views[0]),)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Compare logits and classes, smoothed and weighed as the settings say."""
        assert seen.targets is not None
        return loss(outputs[0].float(), seen.targets, task)

    def explained(self, network: nn.Module) -> nn.Module:
        """Answer for each image as a whole."""
        assert isinstance(network, UNet)
        twin = copy.copy(network)  # the same modules
        twin.by_image = True
        return twin

    def vectors(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Compare by mean logits, (n, classes)."""
        found: Tensor = network(inputs)
        return found.mean((2, 3))

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare by the logits that are there."""
        return ((outputs[0].mean((2, 3)), seen.views[0]),)


def loss(logits: Tensor, maps: Tensor, task: Task) -> Tensor:
    """Return the mean loss of the pixels whose class is known; 0 where none is.

    Args:
        logits: float32 (n, classes, height, width).
        maps: int64 (n, height, width), or ``strata.IGNORED``.
        task: smoothing, and weights of classes.
    """
    # One pixel a row: torch sums those in a fixed order on a GPU, and maps in any.
    rows, classes = logits.movedim(1, -1).flatten(0, 2), maps.flatten()
    if not bool((classes != strata.IGNORED).any()):
        return logits.sum() * 0
    weights = class_weights(task, logits.shape[1])
    return nn.functional.cross_entropy(
        rows,
        classes,
        None if weights is None else weights.to(rows),
        ignore_index=strata.IGNORED,
        label_smoothing=task.settings.label_smoothing,
    )


def class_weights(task: Task, classes: int) -> Tensor | None:
    """Return a weight for each class; None where all count the same.

    ``balanced`` gives a class ``n / (k n_c)``, n_c being its pixels of the n whose class is known,
    and k the classes that occur; 1 to a class that does not.
    """
    settings = task.settings
    if settings.class_weights == "none":
        return None
    if settings.class_weights != "balanced":
        return torch.tensor(settings.class_weights)
    counts = torch.from_numpy(task.pixels_of_class[:classes])
    occur = counts > 0
    weights = counts.sum() / (occur.sum() * counts.clamp(min=1))
    return torch.where(occur, weights, 1.0).float()
