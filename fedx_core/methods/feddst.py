"""Dynamic sparse training: clients prune and grow their own masks, the server settles on one.

The model is sparse from the first weights on, by weight and not by unit. Now and then each client
drops its smallest weights and grows as many where the loss has the steepest gradient. The server
averages each weight over the clients that hold it, and keeps the largest.

Source: S. Bibikar, H. Vikalo, Z. Wang, X. Chen, Federated Dynamic Sparse Training: Computing Less,
Communicating Less, Yet Learning Better, AAAI 2022, https://arxiv.org/abs/2112.09824; details
follow the authors' code, https://github.com/bibikar/feddst, but for what is named here.
Differs from the paper: Adam instead of SGD, and only the last local epoch adjusts, whatever their
number. Norms are neither masked nor counted. A weight that is dropped and grown again at once keeps
its value, so a layer that ERK leaves dense loses nothing. The paper's text was not at hand: where
the code's comments say one thing and the code does another, the comments are taken for it.
Differs from the code, unless ``code_compat``: layers have true ERK densities, where the code scales
sparsities; rounds that adjust count from 1 (1, 1 + R, ...), where the code's loop counts from 0 and
so adjusts one round later; the adjusted share decays, where the code's is constant until
``adjust_until``; what grows was not kept, where the code also chooses kept weights, sets them to
zero and so grows fewer. Gradients are taken anew after the last step, as in the code. The mask of
an adjusting client costs a bit a weight, where the code charges less.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core import domains, limits, masks, state
from fedx_core.aggregate import weighted_mean
from fedx_core.domains import Domain
from fedx_core.errors import ConfigError, DomainError
from fedx_core.masks import Mask
from fedx_core.messages import Entry, Schema, ServerState, Update
from fedx_core.methods import base
from fedx_core.methods.base import Local, ModelInfo, Updates, Wire
from fedx_core.sparsity import (
    churn,
    erdos_renyi_kernel,
    largest,
    largest_by_layer,
    scaled_sparsities,
)
from fedx_core.state import Payload, StateDict
from fedx_core.structure import Mode
from fedx_core.training import LocalRule


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg of sparse models whose masks move.

    Args:
        sparsity: share of the weights of all convolutions and linear layers that are zero (S), in
            (0, 1).
        adjust_every: rounds from one adjustment to the next, the first round being one; 10 to 15
            in the paper, whose runs have 400 rounds.
        adjust_until: the round from which masks stay; half of all rounds in the paper.
        adjust_share: share of a layer's kept weights that move in the first round (alpha), in
            (0, 1]; it falls to zero as a cosine does until ``adjust_until``.
        code_compat: do as the authors' code does where it departs from the paper; see above.
    """

    says: ClassVar[Mapping[str, Domain]] = {**base.Method.says, "client_churn": domains.SHARE}

    sparsity: float = 0.8
    adjust_every: int = 5
    adjust_until: int = 10
    adjust_share: float = 0.01
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.within("(0, 1]", sparsity=self.sparsity, adjust_share=self.adjust_share)
        if self.sparsity == 1:
            raise ConfigError("sparsity must be less than 1, or nothing is left to train")
        limits.at_least(1, adjust_every=self.adjust_every)
        limits.at_least(0, adjust_until=self.adjust_until)

    def share(self, round_index: int) -> float:
        """Return the share of a layer's kept weights that move in a round; 0 in most."""
        if self.code_compat:
            counted = round_index - 1  # from 0, and so is the code's first round to adjust its 1
            due = counted < self.adjust_until and (counted - 1) % self.adjust_every == 0
            return self.adjust_share if due else 0.0
        if round_index >= self.adjust_until or (round_index - 1) % self.adjust_every:
            return 0.0
        return self.adjust_share / 2 * (1 + math.cos(math.pi * round_index / self.adjust_until))

    def start(self, model: StateDict) -> ServerState:
        """Keep the largest of the first weights of each layer."""
        every = {name: tuple(value.shape) for name, value in model.items()}
        shapes = {name: every[name] for name in base.weights(every)}
        if self.code_compat:
            beside = {name: f"{name.removesuffix('weight')}bias" for name in shapes}
            biases = {n: model[b].numel() if b in model else 0 for n, b in beside.items()}
            counts = scaled_sparsities(shapes, biases, self.sparsity)
        else:
            counts = erdos_renyi_kernel(shapes, self.sparsity)
        mask = largest_by_layer(model, counts)
        return ServerState(round_index=0, model=masks.apply(model, mask.entries), mask=mask)

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Let clients say where their masks depart from the server's, in a bit if nowhere."""
        down = super().schema(info, mask, mode, variant).down
        names = self.masked(info)
        moved = [
            Entry(f"moved/{n}", "torch.bool", info.entries[n][1], domain=domains.FLAG)
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
        update = self.finish(local, local.fit(rule))
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

    def check_update(self, server: ServerState, update: Update, info: ModelInfo) -> None:
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

    def change(self, server: ServerState, update: Update, info: ModelInfo) -> Payload:
        """Measure what the client keeps; what it has dropped is no longer there to differ."""
        moved = state.section(update.payload, "moved")
        held = {f"model/{name}": now for name, _, now in self._masks(server, moved)}
        return masks.apply(super().change(server, update, info), held)

    def _masks(
        self, server: ServerState, moved: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Pair the server's mask with what a client keeps, entry by entry."""
        assert server.mask is not None
        for name, kept in server.mask.entries.items():
            yield name, kept, kept ^ moved[name]

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Average each weight over those that keep it; keep as many as before, the largest."""
        assert server.mask is not None
        old = server.mask.entries

        def held() -> Iterator[tuple[float, StateDict]]:
            for update in updates:
                model = state.section(update.payload, "model")
                moved = state.section(update.payload, "moved")
                exact = {name: model[name].double() for name in old}
                kept = {name: (old[name] ^ moved[name]).double() for name in old}
                yield update.examples, model | exact | state.as_section(kept, "kept")

        mean = weighted_mean(held())
        model = {name: mean.get(name, value) for name, value in server.model.items()}
        entries = {}
        for name, before in old.items():
            share = mean[f"kept/{name}"]
            model[name] = torch.where(share > 0, mean[name] / share, 0.0).to(server.model[name])
            entries[name] = largest(model[name].abs(), int(before.sum()), among=share > 0)
        averaged = replace(server, round_index=server.round_index + 1, model=model)
        return self.pruned(averaged, Mask("parameters", entries), info)

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say how much of the server's mask is new, and what share clients were to move."""
        return {
            "churn": churn(before.mask, after.mask),
            "adjust_share": self.share(after.round_index),
        }


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
