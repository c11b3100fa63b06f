"""What an objective is: the network that it trains, what that sees, and the loss.

The network is a model of the catalogue whose classifier an objective may take off and whose entries
keep their names; heads stand beside them, so that they travel, are averaged and are pruned around
like all else. What is not trained and not sent, such as a momentum encoder or a queue, is a module
beside the network: its state dict is the client's memory, and a job that is done again finds what
it began with.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core.base.config import TrainingConfig
from fedx_core.images import strata
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels

COPY = "copy"
"""Where a momentum copy of the network stands beside it, so that it shrinks as the network does."""

Heads = Literal["shared", "local"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an objective is to learn from, and how.

    Args:
        label_kind: of the labels.
        labels: of all of a client's images; int64 (n,), 0/1 (n, classes), or uint8 (n, height,
            width).
        pixels: how images became inputs.
        settings: of local training.
    """

    label_kind: LabelKind
    labels: NDArray[np.integer]
    pixels: Pixels
    settings: TrainingConfig

    @cached_property
    def pixels_of_class(self) -> NDArray[np.int64]:
        """How many pixels bear each class, of maps; counted once, since each step may ask."""
        return strata.pixel_counts(self.labels, strata.IGNORED)


@dataclass(frozen=True)
class Seen:
    """What a step sees of a batch.

    Args:
        views: tensors on the model's device: one of inputs for labels, two for contrast, inputs and
            what of them is hidden for masked images.
        targets: int64 (n,), float32 (n, classes), or maps of classes (n, height, width); None
            where there are no labels.
    """

    views: tuple[Tensor, ...]
    targets: Tensor | None = None


class Objective(abc.ABC):
    """The interface of ``objectives/<name>.py``, whose class ``Objective`` is a frozen dataclass.

    The default is one view of each image, and a network that is the model as it is.
    """

    needs_labels: ClassVar[bool] = False
    """Whether images must have labels."""
    answers: ClassVar[bool] = False
    """Whether the network's output answers with a logit for each class; where not, it is features,
    and a state is scored by their nearest neighbours (:mod:`fedx_core.learning.neighbours`)."""
    least_batch: ClassVar[int] = 1
    """Images that a batch needs; what is left of an epoch with fewer is left out."""
    least_side: ClassVar[int] = 1
    """Pixels that an image needs a side."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Weights of heads that read the features' channels in their second dimension."""
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("single", "multi")
    """Labels that are learned, or by which a state is scored."""
    compares: ClassVar[bool] = False
    """Whether two views of an image are to be alike, so that their similarity can be explained."""

    def check(self, model: nn.Module, family: str) -> None:  # noqa: B027  a hook
        """Refuse a model of the catalogue that can't serve; none by default.

        Raises:
            ConfigError: says what it lacks, and which models have it.
        """

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Turn a model of the catalogue into the network that is trained; weights of heads are new.

        Args:
            model: freshly built; may be changed.
            classifier: name of its last linear layer.
        """
        return model

    def also_reads(self, network: nn.Module) -> Mapping[str, str]:
        """Name weights of heads that read inner channels, as skip connections do; none by default.

        Args:
            network: of :meth:`build`.

        Returns:
            For each of them, which reads in its second dimension, a weight of the model that reads
            the same channels.
        """
        return {}

    def local(self, network: nn.Module) -> frozenset[str]:
        """Name the entries of the network that stay with each client; none by default."""
        return frozenset()

    def views(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor | None,
        task: Task,
        random: np.random.Generator,
    ) -> Seen:
        """Return what a step sees of a batch.

        Args:
            network: that is trained; only its shape is looked at.
            inputs: float32 (n, bands, height, width), normalised, on the network's device.
            targets: see :class:`Seen`.
            task: what is known of the images.
            random: for whatever is drawn, on the host: the same on any device.
        """
        return Seen((inputs,), targets)

    def beside(self, network: nn.Module) -> nn.Module | None:
        """Return what a client keeps beside the network, as at its first start; None for nothing.

        Args:
            network: on its device, with the weights that were sent.
        """
        return None

    def returned(self, beside: nn.Module, rounds_away: int) -> None:  # noqa: B027  a hook
        """Make what was kept fit for another round, in place.

        Args:
            beside: with the values that it had when the client last counted.
            rounds_away: rounds since, in which it did not; 0 where it took part in the last one.
        """

    @abc.abstractmethod
    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Run the network on what is seen; all its trained parts."""

    @abc.abstractmethod
    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            outputs: of :meth:`outputs`.
            seen: of :meth:`views`.
            task: what is known of the images.
            beside: of :meth:`beside`; gets no gradient.
        """

    def after_step(self, network: nn.Module, beside: nn.Module) -> None:  # noqa: B027  a hook
        """Move what stands beside the network after a step, in place."""

    def explained(self, network: nn.Module) -> nn.Module:
        """Return what criteria explain where the network answers: logits (n, classes) an image.

        The network itself by default. Labels are then the image's, or the classes of its pixels.
        """
        return network

    def compared(
        self,
        network: nn.Module,
        classifier: str,
        inputs: Tensor,
        pixels: Pixels,
        random: np.random.Generator,
    ) -> tuple[nn.Module, Tensor]:
        """Turn the similarity of two views into what criteria explain: a logit for each image.

        Args:
            network: with its weights; stays as it is.
            classifier: name of the module that read the features.
            inputs: float32 (n, bands, height, width), normalised.
            pixels: how images became inputs.
            random: of the views.

        Returns:
            A model in eval mode that answers how much a view is like each image's second view, and
            the first views: the logit of view i for image i is F = z(x1) sg z(x2).

        Raises:
            NotImplementedError: by whoever asks an objective that does not say ``compares``.
        """
        raise NotImplementedError(f"{type(self).__module__} compares no views")

    def vectors(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return what plain images are compared by, (n, width): the network's output by default."""
        found: Tensor = network(inputs)
        return found.flatten(1)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Pair a step's vectors (n, width) with the images behind them, to compare with another's.

        Another network's are its :meth:`vectors` of these images. By default the network runs once
        more, on the first view; an objective whose outputs are vectors saves that.

        Args:
            network: that is trained.
            seen: of :meth:`views`.
            outputs: of :meth:`outputs`.
        """
        whole = seen.views[0]
        return ((self.vectors(network, whole), whole),)

    def embedded(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Run the network on plain inputs, heads and all, to measure BatchNorm's statistics."""
        found: Tensor = network(inputs)
        return found


def headless(model: nn.Module, classifier: str) -> int:
    """Take the classifier off a model in place, which then returns features; return their width."""
    parent, _, leaf = classifier.rpartition(".")
    layer = model.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)
    setattr(model.get_submodule(parent), leaf, nn.Identity())
    return layer.in_features


def entries_of(network: nn.Module, *heads: str) -> frozenset[str]:
    """Name the entries of some heads."""
    return frozenset(name for name in network.state_dict() if name.partition(".")[0] in heads)


@torch.no_grad()
def follow(copy: nn.Module, network: nn.Module, momentum: float) -> None:
    """Move a momentum copy towards the network, in place: m times itself and (1 - m) the network.

    BatchNorm's statistics are each one's own.
    """
    own = dict(network.named_parameters())
    for name, parameter in copy.named_parameters():
        parameter.lerp_(own[name].to(parameter), 1 - momentum)
