"""The smallest weights go step by step, and never come back.

Every few rounds the server removes a share of the weights that are left, the smallest.

Source: A. Herzog, R. Southam, I. Mavromatis, A. Khan, FedMap: Iterative Magnitude-Based Pruning for
Communication-Efficient Federated Learning, https://arxiv.org/abs/2406.19050.
Differs from the paper: only its abstract was at hand, so the share, the interval and what is left
out (norms, biases and the classifier) are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from fedx_core.base import limits
from fedx_core.desk.desk import Desk
from fedx_core.pruners import base
from fedx_core.pruning.masks import Mask, Scope, Scores
from fedx_core.pruning.sparsity import largest_by_layer, largest_of_all, left
from fedx_core.wire.messages import RoundReport, ServerState


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of how many weights go, and when.

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


@dataclass(frozen=True, kw_only=True)
class Pruner(Settings, base.Pruner):
    """Prunes weights by size, within the mask that there is."""

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Tell whether the target has risen in this round."""
        return self.target(state.round_index) != self.target(state.round_index - 1)

    def to_come(self, state: ServerState) -> bool:
        """Tell whether the last sparsity is yet to be reached."""
        return self.target(state.round_index) < self.sparsity

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Keep the largest of what is left."""
        target = self.target(state.round_index)
        weights = {name: state.model[name] for name in self.masked(desk)}
        if self.scope == "global":
            return largest_of_all(weights, target, state.mask)
        counts = {name: left(value.numel(), target) for name, value in weights.items()}
        return largest_by_layer(weights, counts, state.mask)

    def masked(self, desk: Desk) -> tuple[str, ...]:
        """Leave the classifier alone."""
        return tuple(layer.weight for layer in desk.graph.layers)

    def measured(self, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say at what sparsity the round ended."""
        return {"target_sparsity": self.target(after.round_index)}
