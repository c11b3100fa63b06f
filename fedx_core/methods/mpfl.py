"""Clients vote by masks on which filters to prune, before any weight is averaged.

All start from the same weights. In each of the first rounds every client trains those that are
left, from their start values again, and says which filters it would keep; the server's consensus is
the next round's mask. Then the pruned start is trained as FedAvg would.

Source: T. Gez, K. Cohen, A Masked Pruning Approach for Dimensionality Reduction in
Communication-Efficient Federated Learning Systems, https://arxiv.org/abs/2312.03889; details follow
the authors' code, https://github.com/TamirGez/MPFL.
Differs from the paper: a client's last epoch votes, where the code keeps the best by validation;
the start may be random. A filter takes its BatchNorm's scale and shift along, which stay in the
code. The code trains the pruned model in one place; clients do here, since the mask is meant for
them. A share of a layer's filters is rounded down, as everywhere in FedX.
Differs from the code: the code's first iteration prunes nothing and is left out. In iteration i it
keeps what all clients keep where that prunes i p of a layer or more, and else what any client
keeps; ``unanimous`` is the first of the two, and ``quota`` is ours. Unless ``code_compat``: torch's
pruning rounds a share to the nearest number of filters, halves to the even one.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from fedx_core import limits, masks, state
from fedx_core.aggregate import weighted_mean
from fedx_core.domains import Domain
from fedx_core.errors import ConfigError, DomainError
from fedx_core.masks import Mask
from fedx_core.messages import Entry, Schema, ServerState, Update
from fedx_core.methods import base
from fedx_core.methods.base import Local, ModelInfo, Turn, Updates, Wire
from fedx_core.sparsity import largest, left
from fedx_core.state import Payload
from fedx_core.structure import Mode

Consensus = Literal["quota", "unanimous", "majority", "histogram"]
PERCENTILE = 0.95
"""Of a layer's votes, below which ``histogram`` prunes."""


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Rounds of votes on filters, then FedAvg of what they leave.

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

    def check(self, info: ModelInfo) -> None:
        """Ask for convolutions."""
        for layer in info.graph.layers:
            if len(info.graph.shapes[layer.weight]) != 4:
                raise ConfigError(
                    f"mpfl votes on filters of convolutions, and {layer.name} has none; choose a "
                    "ResNet, or fedx with relevance magnitude for other models"
                )

    def pruning_to_come(self, server: ServerState) -> bool:
        """Tell whether there are votes to come."""
        return server.round_index < self.iterations

    def variant(self, turn: Turn, info: ModelInfo) -> str:
        """Ask for votes first; send the start to whom it is new."""
        if turn.purpose == "evaluate" or turn.round_index > self.iterations:
            return ""
        return "vote" if turn.returning else "first vote"

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Send votes up, a bit a filter, until the mask is settled."""
        wire = super().schema(info, mask, mode)
        if not variant:
            return wire
        return Wire(
            down=Schema(()) if variant == "vote" else wire.down,
            up=Schema(tuple(self._ballot(x.name, x.units, mask) for x in info.graph.layers)),
        )

    def _ballot(self, layer: str, units: int, mask: Mask | None) -> Entry:
        """Describe one layer's votes, of which each client has as many as any other."""
        wanted = self.quota(mask.entries[layer] if mask else None, units)
        exact = Domain(least=0, most=1, whole=True, ones=wanted)
        return Entry(f"vote/{layer}", "torch.bool", (units,), domain=exact)

    def check_update(self, server: ServerState, update: Update, info: ModelInfo) -> None:
        """Refuse votes for filters that are gone."""
        alive = server.mask.entries if server.mask else {}
        for name, vote in state.section(update.payload, "vote").items():
            if name in alive and bool((vote & ~alive[name]).any()):
                raise DomainError(f"{update.client} votes for filters of {name!r} that are gone")

    def downlink(self, server: ServerState, info: ModelInfo, variant: str = "") -> Payload:
        """Send the model, unless the client holds the start already."""
        return {} if variant == "vote" else super().downlink(server, info)

    def train(self, local: Local) -> Update:
        """Vote after training from the start, or train what the server sent."""
        if not local.variant:
            return super().train(local)
        start = base.sent(local) if local.downlink else state.section(local.memory, "start")
        local.load(masks.apply(start, self.support(local.info, local.mask, "slices")))
        # From the same start again, so that no moments of the last time fit.
        loss = replace(local, moments=None).fit(self.rule(local))
        trained = local.trained()
        alive = local.mask.entries if local.mask else {}
        layers = local.info.graph.layers
        votes = {x.name: self.vote(trained[x.weight], alive.get(x.name)) for x in layers}
        kept = state.as_section(start, "start")
        return local.update(state.as_section(votes, "vote"), loss, kept)

    def vote(self, weight: Tensor, alive: Tensor | None) -> Tensor:
        """Keep all filters that are left but the share p of them with the smallest norms.

        Args:
            weight: float (filters, ...).
            alive: which filters are left, bool (filters,); None for all.
        """
        norms = weight.double().flatten(1).norm(dim=1)
        return largest(norms, self.quota(alive, len(norms)), among=alive)

    def quota(self, alive: Tensor | None, size: int) -> int:
        """Return how many of a layer's filters each client keeps, one at least."""
        there = size if alive is None else int(alive.sum())
        return max(left(there, self.prune_share, nearest=self.code_compat), 1)

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Settle on a mask while there are votes; average models from then on."""
        if server.round_index >= self.iterations:
            return super().aggregate(server, updates, info)
        shares = weighted_mean(
            (1, {n: v.double() for n, v in state.section(update.payload, "vote").items()})
            for update in updates
        )
        alive = server.mask.entries if server.mask else {}
        kept = {name: self.settled(share, alive.get(name)) for name, share in shares.items()}
        split = [float(((share > 0) & (share < 1)).double().mean()) for share in shares.values()]
        return replace(
            self.pruned(server, Mask("units", kept), info),
            round_index=server.round_index + 1,
            memory={"disagreement": torch.tensor(sum(split) / len(split))},
        )

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

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say on what share of the filters clients disagreed, and what share of them has gone."""
        if after.round_index > self.iterations or after.mask is None:
            return {"disagreement": 0.0, "churn": 0.0}
        there = before.mask.kept if before.mask else after.mask.size
        return {
            "disagreement": float(after.memory["disagreement"]),
            "churn": 1 - after.mask.kept / there,
        }

    def paper_bytes(self, info: ModelInfo, kept: int, variant: str = "") -> int:
        """Charge a bit a filter both ways while clients vote, and the start once."""
        if not variant:
            return super().paper_bytes(info, kept)
        bits = sum(layer.units for layer in info.graph.layers)
        return 2 * math.ceil(bits / 8) + (4 * kept if variant == "first vote" else 0)
