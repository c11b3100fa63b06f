"""Dynamic sparse training: clients prune and grow their own masks, the server settles on one.

The model is sparse from the first weights on, by weight and not by unit. Now and then each client
drops its smallest weights and grows as many where the loss has the steepest gradient. The server
averages each weight over the clients that hold it, and keeps the largest.

Source: S. Bibikar, H. Vikalo, Z. Wang, X. Chen, Federated Dynamic Sparse Training: Computing Less,
Communicating Less, Yet Learning Better, AAAI 2022, https://arxiv.org/abs/2112.09824; details
follow the authors' code, https://github.com/bibikar/feddst, but for what is named here.
Differs from the paper: the optimiser is a setting (SGD in the preset ``paper``), and only the last
local epoch adjusts, whatever their number. Norms are neither masked nor counted. A weight that is
dropped and grown again at once keeps its value, so a layer that ERK leaves dense loses nothing. The
paper's text was not at hand: where the code's comments say one thing and the code does another, the
comments are taken for it.
Differs from the code, unless ``code_compat``: layers have true ERK densities, where the code scales
sparsities; rounds that adjust count from 1 (1, 1 + R, ...), where the code's loop counts from 0 and
so adjusts one round later; the adjusted share decays, where the code's is constant until
``adjust_until``; what grows was not kept, where the code also chooses kept weights, sets them to
zero and so grows fewer. Gradients are taken anew after the last step, as in the code. The mask of
an adjusting client costs a bit a weight, where the code charges less.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base import state
from fedx_core.base.errors import DomainError
from fedx_core.base.state import Payload, StateDict
from fedx_core.learning.training import LocalRule
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local, Parts, Total, Wire, taken
from fedx_core.pruners import held
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.sparsity import (
    churn,
    largest,
)
from fedx_core.pruning.structure import Mode
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Entry, Schema, ServerState, Update


@dataclass(frozen=True, kw_only=True)
class Method(held.Settings, base.Method):
    """FedAvg of sparse models whose masks move."""

    numbers: ClassVar[Mapping[str, Domain]] = {
        **base.Method.numbers, "client_churn": domains.SHARE,
    }  # fmt: skip
    own_exchange: ClassVar[str] = "moving masks"

    def own(self) -> Parts:
        """Keep the largest of what clients hold."""
        return Parts(pruner=taken(held.Pruner, self))

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Let clients say where their masks depart from the server's, in a bit if nowhere."""
        down = super().schema(desk, mask, mode, variant).down
        names = self.masked(desk)
        moved = [
            Entry(f"moved/{n}", "torch.bool", desk.entries[n][1], domain=domains.FLAG)
            for n in names
        ]
        flips = {entry.name: "still/all" for entry in moved}
        if mode is not None:
            flips |= {f"model/{name}": f"moved/{name}" for name in names}
        still = Entry("still/all", "torch.bool", (1,), domain=domains.FLAG)
        return Wire(down=down, up=Schema((still, *moved, *down.entries), down.support, flips))

    def train(self, local: Local) -> Update:
        """Train what is kept; in some rounds, move the mask by the gradients at the end."""
        assert local.mask is not None
        kept, share = local.mask.entries, self.share(local.round_index)
        gradients: dict[str, Tensor] = {}

        @torch.no_grad()
        def hold(model: nn.Module) -> None:
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.mul_(kept[name].to(parameter.device, non_blocking=True))

        base.load(local)
        rule = LocalRule(after_step=hold, at_end=gradients.update if share else None)
        update = self.finish(local, self.fitted(local, rule))
        model, now = dict(update.payload), dict(kept)
        for name in kept if share else ():
            model[f"model/{name}"], now[name] = adjust(
                model[f"model/{name}"], gradients[name].cpu(), kept[name], share,
                anywhere=self.code_compat,
            )  # fmt: skip
        moved = {name: now[name] ^ value for name, value in kept.items()}
        still = torch.tensor([not any(bool(value.any()) for value in moved.values())])
        return replace(
            update,
            payload={"still/all": still, **state.as_section(moved, "moved"), **model},
            metrics={**update.metrics, "client_churn": churn(local.mask, Mask("parameters", now))},
        )

    def check_update(self, server: ServerState, update: Update, desk: Desk) -> None:
        """Refuse masks that move more than this round's share, or keep more or fewer weights."""
        share = self.share(server.round_index + 1)
        model, moved = (state.section(update.payload, part) for part in ("model", "moved"))
        for name, kept, now in self._masks(server, moved):
            size, goes = int(kept.sum()), round(share * int(kept.sum()))
            gone, left = int((kept & ~now).sum()), int(now.sum())
            # The authors' code also grows what is kept, and so fewer.
            least = size - goes if self.code_compat else size
            if gone > goes or not least <= left <= size:
                raise DomainError(
                    f"{update.client} drops {gone} of the {size} kept weights of {name!r} and "
                    f"keeps {left}; wanted {goes} dropped at most and {size} kept"
                )
            if bool(model[name][~now].any()):
                raise DomainError(f"{update.client} sends weights of {name!r} beside its mask")

    def change(self, server: ServerState, update: Update, desk: Desk) -> Payload:
        """Measure what the client keeps; what it has dropped is no longer there to differ."""
        moved = state.section(update.payload, "moved")
        held = {f"model/{name}": now for name, _, now in self._masks(server, moved)}
        return masks.apply(super().change(server, update, desk), held)

    def _masks(
        self, server: ServerState, moved: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Pair the server's mask with what a client keeps, entry by entry."""
        assert server.mask is not None
        for name, kept in server.mask.entries.items():
            yield name, kept, kept ^ moved[name]

    def contribution(self, desk: Desk, update: Update) -> tuple[float, StateDict]:
        """Add the model by examples, and where its mask departs from the server's."""
        moved = state.section(update.payload, "moved")
        away = {name: value.double() for name, value in moved.items()}
        return update.examples, {
            **state.section(update.payload, "model"),
            **state.as_section(away, "moved"),
        }

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Average each weight over those that keep it; in rounds that adjust, a mask follows."""
        assert before.mask is not None
        mean = total.mean()
        model = {name: mean.get(name, value) for name, value in before.model.items()}
        memory = dict(before.memory)
        for name, old in before.mask.entries.items():
            away = total.sums[f"moved/{name}"]
            share = torch.where(old, total.weight - away, away) / total.weight
            # What a client does not keep is zero there, so the sum is over those that keep it.
            kept = total.sums[name] / total.weight / share
            model[name] = torch.where(share > 0, kept, 0.0).to(before.model[name])
            memory[f"{held.HELD}/{name}"] = share > 0
        after = replace(before, round_index=before.round_index + 1, model=model, memory=memory)
        if not self.share(after.round_index):
            after = replace(after, memory=before.memory)  # all hold the server's mask
        return self.stepped(desk, before, after)


def adjust(
    value: Tensor, gradient: Tensor, kept: Tensor, share: float, *, anywhere: bool = False
) -> tuple[Tensor, Tensor]:
    """Drop the smallest kept weights and grow as many where the gradient is steepest.

    Args:
        value: of the weights, zero where not kept.
        gradient: of the loss at ``value``, dense.
        kept: bool of the same shape.
        share: of the kept weights that go.
        anywhere: grow where the gradient is steepest of all, kept or not, and begin there at zero,
            as the code does.

    Returns:
        Weights, those newly kept being zero, and what is kept now. What was dropped may grow again,
        and then keeps its value: where nothing else is left to grow, nothing moves.
    """
    active = int(kept.sum())
    goes = round(share * active)
    stays = largest(value.abs(), active - goes, among=kept)
    if anywhere:
        grown = largest(gradient.abs(), goes)
        return torch.where(stays & ~grown, value, 0.0), stays | grown
    now = stays | largest(gradient.abs(), goes, among=~stays)
    return torch.where(now, value, 0.0), now
