"""A view finds the other view of its image among a queue of earlier ones.

The other view is seen by a momentum copy of the network, so that what the queue holds ages slowly.
Copy and queue stay with their client. A client that was left out of a round begins with an empty
queue, since what it holds is of another network.

Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020,
https://arxiv.org/abs/1911.05722, equation 1 and algorithm 1; Chen et al., 2020,
https://arxiv.org/abs/2003.04297 (v2: projector, temperature).
Differs from the paper: the queue is short and starts empty, and momentum is lower, since a client
takes few steps; BatchNorm is not shuffled, as a client computes on one device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base import limits
from fedx_core.objectives import base
from fedx_core.objectives._contrast import TwoViews, frozen_copy, project, projected, unit
from fedx_core.objectives.base import Seen, Task


class Beside(nn.Module):
    """The momentum copy, and a queue of keys of which ``filled`` count."""

    queue: Tensor
    filled: Tensor

    def __init__(self, network: nn.Module, width: int, length: int) -> None:
        super().__init__()
        self.copy = frozen_copy(network)
        device = next(network.parameters()).device
        self.register_buffer("queue", torch.zeros(length, width, device=device))
        self.register_buffer("filled", torch.zeros(1, dtype=torch.int64, device=device))
        self.keys = torch.empty(0, width, device=device)


@dataclass(frozen=True, kw_only=True)
class Objective(TwoViews):
    """MoCo: contrast with a queue.

    Args:
        temperature: tau, positive.
        momentum: what a step leaves of the copy, in [0, 1).
        queue: keys that are kept.
    """

    temperature: float = 0.2
    momentum: float = 0.99
    queue: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.positive(temperature=self.temperature)
        limits.within("[0, 1)", momentum=self.momentum)
        limits.at_least(1, queue=self.queue)
        limits.at_most(1 << 20, queue=self.queue)

    def beside(self, network: nn.Module) -> nn.Module:
        """Begin with the network itself and an empty queue."""
        return Beside(network, projected(network), self.queue)

    def returned(self, beside: nn.Module, rounds_away: int) -> None:
        """Empty the queue of a client that was away."""
        assert isinstance(beside, Beside)
        if rounds_away:
            beside.queue.zero_()
            beside.filled.zero_()

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Project the first views, the queries."""
        return (project(network, seen.views[0]),)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare the queries."""
        return ((outputs[0], seen.views[0]),)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Tell each query's key from those in the queue (equation 1)."""
        assert isinstance(beside, Beside)
        with torch.no_grad():
            beside.keys = unit(project(beside.copy, seen.views[1]))
        queue = beside.queue[: int(beside.filled)]
        return find(unit(outputs[0]), beside.keys, queue, self.temperature)

    def after_step(self, network: nn.Module, beside: nn.Module) -> None:
        """Follow the network, and put this step's keys before the older ones."""
        assert isinstance(beside, Beside)
        base.follow(beside.copy, network, self.momentum)
        known = torch.cat([beside.keys, beside.queue])[: len(beside.queue)]
        beside.queue.copy_(known)
        beside.filled.add_(len(beside.keys)).clamp_(max=len(beside.queue))


def find(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the mean of -log softmax of each query's own key among it and the queue.

    Args:
        queries: (n, width), of length one, as all are.
        keys: of the same images.
        queue: (m, width); without any there is nothing to tell apart, and the loss is zero.
        temperature: tau.
    """
    own = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([own, queries @ queue.T], 1) / temperature
    first = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    return functional.cross_entropy(logits, first)
