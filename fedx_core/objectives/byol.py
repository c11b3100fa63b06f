"""A predictor guesses from one view what a momentum copy of the network makes of the other.

Nothing repels, so no other images are needed. The copy, the target, stays with its client; in a
client's first round it is the network that was sent.

Source: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, https://arxiv.org/abs/2006.07733,
equations 1 and 2.
Differs from the paper: momentum does not rise, and heads are as narrow as the encoder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedx_core.base import limits
from fedx_core.objectives import base
from fedx_core.objectives._contrast import TwoViews, frozen_copy, mlp, project, projected, unit
from fedx_core.objectives.base import Seen, Task


class Beside(nn.Module):
    """The target: a copy without the predictor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.copy = frozen_copy(network, "predictor")


@dataclass(frozen=True, kw_only=True)
class Objective(TwoViews):
    """BYOL: predict the other view.

    Args:
        momentum: what a step leaves of the target, in [0, 1).
    """

    momentum: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.within("[0, 1)", momentum=self.momentum)

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Add a predictor behind the projector."""
        network = super().build(model, classifier)
        width = projected(network)
        network.predictor = mlp(width, width, width)
        return network

    def beside(self, network: nn.Module) -> nn.Module:
        """Begin with the network as it was sent."""
        return Beside(network)

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Predict from each view."""
        return tuple(_predicted(network, view) for view in seen.views)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Compare each prediction with the target's projection of the other view (equation 2)."""
        assert isinstance(beside, Beside)
        with torch.no_grad():
            targets = [project(beside.copy, view) for view in seen.views]
        one, other = outputs
        return apart(one, targets[1]) + apart(other, targets[0])

    def after_step(self, network: nn.Module, beside: nn.Module) -> None:
        """Follow the network."""
        assert isinstance(beside, Beside)
        base.follow(beside.copy, network, self.momentum)

    def embedded(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return predictions, (n, projection)."""
        return _predicted(network, inputs)


def _predicted(network: nn.Module, inputs: Tensor) -> Tensor:
    found: Tensor = network.get_submodule("predictor")(project(network, inputs))
    return found


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean of 2 - 2 cos over pairs of vectors (n, width)."""
    return (2 - 2 * (unit(one) * unit(other)).sum(1)).mean()
