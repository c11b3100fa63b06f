"""Filters go that too few clients vote for.

The server's half of masked pruning: in the first rounds clients say which filters they would keep,
and a consensus of them is the next mask. The evidence of an event holds the shares of the votes.

Source: T. Gez, K. Cohen, A Masked Pruning Approach for Dimensionality Reduction in
Communication-Efficient Federated Learning Systems, https://arxiv.org/abs/2312.03889; details follow
the authors' code, https://github.com/TamirGez/MPFL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from fedx_core.base import limits, state
from fedx_core.base.errors import ConfigError
from fedx_core.desk.desk import Desk
from fedx_core.pruners import base
from fedx_core.pruning.masks import Mask, Scores
from fedx_core.pruning.sparsity import largest, left
from fedx_core.wire.messages import RoundReport, ServerState

Consensus = Literal["quota", "unanimous", "majority", "histogram"]
PERCENTILE = 0.95
"""Of a layer's votes, below which ``histogram`` prunes."""

VOTES = "votes"
"""Section of the server's memory from a round's sum to its mask: shares of the clients."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of how long clients vote, and what follows.

    Args:
        iterations: rounds of votes; no weight is averaged in them.
        prune_share: share of the filters that are left in a layer which each client votes out in
            each of them (p), in (0, 1).
        consensus: which filters of a layer stay: as many as each client keeps, those with the most
            votes (``quota``); those that all clients keep (``unanimous``) or at least half of them
            (``majority``); or those whose share of votes is no less than the 95th percentile of all
            votes in the layer (``histogram``): unanimity, unless hardly any filter is kept.
        code_compat: round shares as the authors' code does; see above.
    """

    iterations: int = 5
    prune_share: float = 0.1
    consensus: Consensus = "quota"
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.at_least(1, iterations=self.iterations)
        limits.within("(0, 1)", prune_share=self.prune_share)
        limits.one_of(get_args(Consensus), consensus=self.consensus)

    def quota(self, alive: Tensor | None, size: int) -> int:
        """Return how many of a layer's filters each client keeps, one at least."""
        there = size if alive is None else int(alive.sum())
        return max(left(there, self.prune_share, nearest=self.code_compat), 1)


@dataclass(frozen=True, kw_only=True)
class Pruner(Settings, base.Pruner):
    """Prunes filters by the clients' votes."""

    needs: ClassVar[str] = "votes"

    def check(self, desk: Desk) -> None:
        """Ask for convolutions."""
        for layer in desk.graph.layers:
            if len(desk.graph.shapes[layer.weight]) != 4:
                raise ConfigError(
                    f"mpfl votes on filters of convolutions, and {layer.name} has none; choose a "
                    "ResNet, or fedx with relevance magnitude for other models"
                )

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Tell whether clients have voted; they have not where a run branches off another one."""
        return any(name.startswith(f"{VOTES}/") for name in state.memory)

    def to_come(self, state: ServerState) -> bool:
        """Tell whether there are votes to come."""
        return state.round_index < self.iterations

    def scores(self, desk: Desk, server: ServerState) -> Scores:
        """Return the share of the clients that keep each filter."""
        return state.section(server.memory, VOTES)

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Find each layer's consensus."""
        alive = state.mask.entries if state.mask else {}
        kept = {name: self.settled(share, alive.get(name)) for name, share in scores.items()}
        return Mask("units", kept)

    def settled(self, share: Tensor, alive: Tensor | None) -> Tensor:
        """Find a layer's consensus; one that would lose all keeps its most wanted filter.

        Args:
            share: of the clients that keep each filter, float (filters,) in [0, 1].
            alive: which filters are left, bool (filters,); None for all.

        Returns:
            What stays, bool (filters,); never a filter that was gone.
        """
        if self.consensus == "quota":
            return largest(share, self.quota(alive, len(share)), among=alive)
        # A percentile of zeros and ones is one of them, or lies between only at a single point.
        most = self.consensus == "histogram" and float(share.mean()) <= 1 - PERCENTILE
        quorum = 0.5 if self.consensus == "majority" else 1.0
        kept = share > 0 if most else share >= quorum
        return kept if bool(kept.any()) else largest(share, 1, among=alive)

    def pruned(self, desk: Desk, server: ServerState, mask: Mask) -> ServerState:
        """Take a mask over, and keep of the votes how far they disagreed."""
        shares = state.section(server.memory, VOTES).values()
        split = [float(((share > 0) & (share < 1)).double().mean()) for share in shares]
        memory = {n: v for n, v in server.memory.items() if not n.startswith(f"{VOTES}/")}
        memory["disagreement"] = torch.tensor(fmean(split))
        return super().pruned(desk, replace(server, memory=memory), mask)

    def measured(self, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say on what share of the filters clients disagreed, and what share of them has gone."""
        if after.round_index > self.iterations or after.mask is None:
            return {"disagreement": 0.0, "churn": 0.0}
        there = before.mask.kept if before.mask else after.mask.size
        return {
            "disagreement": float(after.memory["disagreement"]),
            "churn": 1 - after.mask.kept / there,
        }
