"""Dynamic pruning with error feedback, and a penalty that grows round by round.

The server prunes its model by size, more and more weights up to a target. Clients train what the
pruned model does wrong into all weights, pruned ones too, so that these can come back.

Source: Q. Long, C. Anagnostopoulos, S. P. Parambath, D. Bi, FedDIP: Federated Learning with Extreme
Dynamic Pruning and Incremental Regularization, ICDM 2023, https://arxiv.org/abs/2309.06805;
details follow the authors' code, https://github.com/EricLoong/feddip.
Differs from the paper: the optimiser is a setting (SGD with a falling rate in the preset
``paper``); each client's first mask is drawn from the run's seed. Masks are chosen among all
weights each time, since clients bring pruned ones back; a share is rounded down. As the code does
for ResNets, the classifier and downsampling are not pruned; neither are norms and biases. Clients
send all their weights, as the code does, unless ``prune_upload``: then both directions hold the
mask's weights only, and what was pruned can't come back. The code's ledger, which takes the share
of exact zeros for the cost, and its second forward pass are left out: bytes are those that travel.
Differs from the code, unless ``code_compat``: the code's server applies its last mask before it
prunes by size again, so each mask lies within the one before and nothing comes back; and it rounds
a share to the nearest number of weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base import limits, seeding
from fedx_core.learning.training import LocalRule
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local, Parts, Total, Wire, taken
from fedx_core.pruners import gradual
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.sparsity import erdos_renyi_kernel, largest
from fedx_core.pruning.structure import Mode
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Schema, ServerState, Update

STEPS = 20
"""Equal parts of the run over which the penalty rises."""


@dataclass(frozen=True, kw_only=True)
class Method(gradual.Settings, base.Method):
    """FedAvg whose model is pruned by size at the server and trained whole at the clients.

    Args:
        penalty: the largest weight of the sum of the layers' norms (lambda_max), 0 or more; 0 is
            no penalty at all.
        first_penalty: its weight in the second of the twenty parts of the run; none in the first.
        prune_upload: clients send the mask's weights only.
    """

    numbers: ClassVar[Mapping[str, Domain]] = {
        **base.Method.numbers, "client_regrown": domains.SHARE,
    }  # fmt: skip
    own_exchange: ClassVar[str] = "all weights"

    penalty: float = 1e-3
    first_penalty: float = 5e-4
    prune_upload: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.at_least(0, penalty=self.penalty, first_penalty=self.first_penalty)

    def own(self) -> Parts:
        """Prune by size, gradually."""
        return Parts(pruner=taken(gradual.Pruner, self))

    def strength(self, round_index: int) -> float:
        """Return the penalty's weight in a round (lambda_t): 0, then even steps upwards."""
        step = min((round_index - 1) * STEPS // self.target_round, STEPS - 1)
        if step == 0 or self.penalty == 0:
            return 0.0
        first = min(self.first_penalty, self.penalty)
        return first + (self.penalty - first) / (STEPS - 1) * (step - 1)

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Let clients send everything, unless ``prune_upload``."""
        wire = super().schema(desk, mask, mode, variant)
        return wire if self.prune_upload else replace(wire, up=Schema(wire.down.entries))

    def first_mask(self, desk: Desk, seed: int) -> Mask:
        """Draw a client's mask of the first round: ERK densities at s_0, places at random."""
        shapes = {name: desk.entries[name][1] for name in self.masked(desk)}
        counts = erdos_renyi_kernel(shapes, self.start_sparsity)
        random = seeding.torch_generator(seeding.derive(seed, "mask"))
        drawn = {n: torch.rand(shape, generator=random) for n, shape in shapes.items()}
        return Mask("parameters", {n: largest(v, counts[n]) for n, v in drawn.items()})

    def rule(self, local: Local) -> LocalRule:
        """Go forward with the pruned weights, and move all of them by the gradient there."""
        kept = (local.mask or self.first_mask(local.desk, local.seed)).entries
        strength = self.strength(local.round_index)

        def effective(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: prune_through(v, kept[n]) if n in kept else v for n, v in parameters.items()}

        def penalty(model: nn.Module) -> Tensor:
            named = dict(model.named_parameters())
            norms = [torch.linalg.vector_norm(named[n] * kept[n].to(named[n].device)) for n in kept]
            return strength * torch.stack(norms).sum()

        return LocalRule(effective=effective, penalty=penalty if strength else None)

    def finish(self, local: Local, loss: float) -> Update:
        """Say how much came back where the mask prunes; send it, unless ``prune_upload``."""
        kept = (local.mask or self.first_mask(local.desk, local.seed)).entries
        update = super().finish(local, loss)
        model = {f"model/{name}": value for name, value in kept.items()}
        payload = masks.apply(update.payload, model) if self.prune_upload else update.payload
        whole = math.fsum(float(update.payload[n].double().square().sum()) for n in model)
        back = math.fsum(
            float(update.payload[n][~m].double().square().sum()) for n, m in model.items()
        )
        said = {**update.metrics, "client_regrown": (back / whole) ** 0.5 if whole else 0.0}
        return replace(update, payload=payload, metrics=said)

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Average as FedAvg does; under the mask, unless the round makes a new one."""
        mean = super().settle(desk, before, total)
        pruner = self.parts.pruner
        if mean.mask is None or pruner.due(mean, ()):
            return mean  # pruned weights too, which may come back
        return pruner.pruned(desk, mean, mean.mask)

    def stepped(self, desk: Desk, before: ServerState, averaged: ServerState) -> ServerState:
        """Take the server's step with pruned weights too, which may come back."""
        return self.parts.server.step(desk, before, averaged)

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge all parameters where clients send all."""
        whole = sum(torch.Size(desk.graph.shapes[name]).numel() for name in desk.graph.parameters)
        return 4 * (kept + (kept if self.prune_upload else whole))

    def measured(self, before: ServerState, after: ServerState, desk: Desk) -> dict[str, float]:
        """Say how strong the penalty was, beside what the pruner says."""
        return {
            **super().measured(before, after, desk),
            "penalty": self.strength(after.round_index),
        }


def prune_through(value: Tensor, kept: Tensor) -> Tensor:
    """Zero what is not kept, and let the gradient through to all of it."""
    kept = kept.to(value.device, non_blocking=True)
    return value + (value * kept - value).detach()
