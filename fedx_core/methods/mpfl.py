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
from typing import ClassVar

from torch import Tensor

from fedx_core.base import state
from fedx_core.base.errors import DomainError
from fedx_core.base.state import Payload, StateDict
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local, Parts, Total, Turn, Wire, taken
from fedx_core.pruners import votes
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.sparsity import largest
from fedx_core.pruning.structure import Mode
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Entry, Schema, ServerState, Update


@dataclass(frozen=True, kw_only=True)
class Method(votes.Settings, base.Method):
    """Rounds of votes on filters, then FedAvg of what they leave."""

    own_exchange: ClassVar[str] = "votes"

    def own(self) -> Parts:
        """Prune by votes."""
        return Parts(pruner=taken(votes.Pruner, self))

    def variant(self, turn: Turn, desk: Desk) -> str:
        """Ask for votes first; send the start to whom it is new."""
        if turn.purpose == "evaluate" or turn.round_index > self.iterations:
            return ""
        return "vote" if turn.returning else "first vote"

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Send votes up, a bit a filter, until the mask is settled."""
        wire = super().schema(desk, mask, mode)
        if not variant:
            return wire
        return Wire(
            down=Schema(()) if variant == "vote" else wire.down,
            up=Schema(tuple(self._ballot(x.name, x.units, mask) for x in desk.graph.layers)),
        )

    def _ballot(self, layer: str, units: int, mask: Mask | None) -> Entry:
        """Describe one layer's votes, of which each client has as many as any other."""
        wanted = self.quota(mask.entries[layer] if mask else None, units)
        exact = Domain(least=0, most=1, whole=True, ones=wanted)
        return Entry(f"vote/{layer}", "torch.bool", (units,), domain=exact)

    def check_update(self, server: ServerState, update: Update, desk: Desk) -> None:
        """Refuse votes for filters that are gone."""
        alive = server.mask.entries if server.mask else {}
        for name, vote in state.section(update.payload, "vote").items():
            if name in alive and bool((vote & ~alive[name]).any()):
                raise DomainError(f"{update.client} votes for filters of {name!r} that are gone")

    def downlink(self, server: ServerState, desk: Desk, variant: str = "") -> Payload:
        """Send the model, unless the client holds the start already."""
        return {} if variant == "vote" else super().downlink(server, desk)

    def train(self, local: Local) -> Update:
        """Vote after training from the start, or train what the server sent."""
        if not local.variant:
            return super().train(local)
        start = local.sent() if local.downlink else state.section(local.memory, "start")
        local.load(masks.apply(start, self.support(local.desk, local.mask, "slices")))
        # From the same start again, so that no moments of the last time fit.
        again = replace(local, moments=None)
        loss = self.fitted(again, self.rule(again))
        trained = local.trained()
        alive = local.mask.entries if local.mask else {}
        layers = local.desk.graph.layers
        cast = {x.name: self.vote(trained[x.weight], alive.get(x.name)) for x in layers}
        kept = state.as_section(start, "start")
        return local.update(state.as_section(cast, "vote"), loss, kept)

    def vote(self, weight: Tensor, alive: Tensor | None) -> Tensor:
        """Keep all filters that are left but the share p of them with the smallest norms.

        Args:
            weight: float (filters, ...).
            alive: which filters are left, bool (filters,); None for all.
        """
        norms = weight.double().flatten(1).norm(dim=1)
        return largest(norms, self.quota(alive, len(norms)), among=alive)

    def contribution(self, desk: Desk, update: Update) -> tuple[float, StateDict]:
        """Add the votes, each client counting the same; models by examples from then on."""
        if cast := state.section(update.payload, "vote"):
            return 1, {name: vote.double() for name, vote in cast.items()}
        return super().contribution(desk, update)

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Hand the votes on while there are any; average models from then on."""
        if before.round_index >= self.iterations:
            return super().settle(desk, before, total)
        shares = state.as_section(total.mean(), votes.VOTES)
        return replace(
            before, round_index=before.round_index + 1, memory={**before.memory, **shares}
        )

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge a bit a filter both ways while clients vote, and the start once."""
        if not variant:
            return super().paper_bytes(desk, kept)
        bits = sum(layer.units for layer in desk.graph.layers)
        return 2 * math.ceil(bits / 8) + (4 * kept if variant == "first vote" else 0)
