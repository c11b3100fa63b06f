"""Iterative magnitude pruning of the global model: every later model lives within the earlier one.

All clients start from the same random weights. Every few rounds the server removes a share of the
weights that are left, the smallest, and both directions carry what remains.

Source: A. Herzog, R. Southam, I. Mavromatis, A. Khan, FedMap: Iterative Magnitude-Based Pruning for
Communication-Efficient Federated Learning, https://arxiv.org/abs/2406.19050.
Differs from the paper: only its abstract was at hand, so the share, the interval and what is left
out (norms, biases and the classifier) are ours. Clients are sent the mask when it changes, at a bit
a weight, where the paper lets them read it from the zeros.
"""

from dataclasses import dataclass
from typing import get_args

from fedx_core import limits
from fedx_core.masks import Mask, Scope
from fedx_core.messages import ServerState
from fedx_core.methods import base
from fedx_core.methods.base import ModelInfo, Updates
from fedx_core.sparsity import largest_by_layer, largest_of_all, left
from fedx_core.state import StateDict


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg whose model loses its smallest weights step by step.

    Args:
        sparsity: share of the prunable weights that are zero in the end, in (0, 1).
        prune_share: share of the weights that are left that goes at each event, in (0, 1).
        prune_every: rounds from one event to the next.
        scope: ``layer`` takes the share of each layer, ``global`` the smallest of all.
    """

    sparsity: float = 0.9
    prune_share: float = 0.2
    prune_every: int = 1
    scope: Scope = "layer"

    def __post_init__(self) -> None:
        limits.within("(0, 1)", sparsity=self.sparsity, prune_share=self.prune_share)
        limits.at_least(1, prune_every=self.prune_every)
        limits.one_of(get_args(Scope), scope=self.scope)

    def target(self, round_index: int) -> float:
        """Return the sparsity after a round: 1 - (1 - p)^i after i events, up to the last."""
        return min(1 - (1 - self.prune_share) ** (round_index // self.prune_every), self.sparsity)

    def masked(self, info: ModelInfo) -> tuple[str, ...]:
        """Leave the classifier alone."""
        return tuple(layer.weight for layer in info.graph.layers)

    def pruning_to_come(self, server: ServerState) -> bool:
        """Tell whether the last sparsity is yet to be reached."""
        return self.target(server.round_index) < self.sparsity

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Average as FedAvg does; where it is due, keep the largest of what is left."""
        mean = super().aggregate(server, updates, info)
        target = self.target(mean.round_index)
        if target == self.target(server.round_index):
            return mean
        return self.pruned(mean, self._mask(mean.model, target, server.mask, info), info)

    def _mask(self, model: StateDict, target: float, alive: Mask | None, info: ModelInfo) -> Mask:
        weights = {name: model[name] for name in self.masked(info)}
        if self.scope == "global":
            return largest_of_all(weights, target, alive)
        counts = {name: left(value.numel(), target) for name, value in weights.items()}
        return largest_by_layer(weights, counts, alive)

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say at what sparsity the round ended."""
        return {"target_sparsity": self.target(after.round_index)}
