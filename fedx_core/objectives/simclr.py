"""Two views of an image attract each other, and all other views of the batch repel them.

Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML
2020, https://arxiv.org/abs/2002.05709, equation 1 (NT-Xent).
Differs from the paper: views are those of images that look straight down, and the projector is of
the encoder's width, so that it costs few bytes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base import limits
from fedx_core.objectives._contrast import TwoViews, mlp, project, projected, unit
from fedx_core.objectives.base import Seen, Task


@dataclass(frozen=True, kw_only=True)
class Objective(TwoViews):
    """SimCLR: contrast within the batch.

    Args:
        temperature: tau, positive; the lower, the more the nearest others count.
        predictor: put one behind the projector, as BYOL does; only method ``fedckd`` trains it.
    """

    temperature: float = 0.2
    predictor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.positive(temperature=self.temperature)

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Add a predictor where one is asked for."""
        network = super().build(model, classifier)
        if self.predictor:
            width = projected(network)
            network.predictor = mlp(width, width, width)
        return network

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Project both views in one batch."""
        return project(network, torch.cat(seen.views)).chunk(2)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare what the loss compares."""
        one, other = outputs
        return (one, seen.views[0]), (other, seen.views[1])

    def embedded(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return projections, or what the predictor makes of them."""
        found = project(network, inputs)
        if self.predictor:
            found = network.get_submodule("predictor")(found)
        return found

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Tell each view's other view from all that is there (equation 1)."""
        one, other = outputs
        return contrast(one, other, self.temperature)


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Return the mean over 2n views of -log softmax of each view's pair among all but itself.

    Args:
        one: first views, (n, width).
        other: second views of the same images.
        temperature: tau.
    """
    count = len(one)
    views = unit(torch.cat([one, other]))
    logits = views @ views.T / temperature
    logits.fill_diagonal_(-torch.inf)
    pairs = torch.arange(2 * count, device=views.device).roll(count)
    return functional.cross_entropy(logits, pairs)
