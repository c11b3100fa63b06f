"""Dynamic pruning with error feedback, and a penalty that grows round by round.

The server prunes its model by size, more and more weights up to a target. Clients train what the
pruned model does wrong into all weights, pruned ones too, so that these can come back.

Source: Q. Long, C. Anagnostopoulos, S. P. Parambath, D. Bi, FedDIP: Federated Learning with Extreme
Dynamic Pruning and Incremental Regularization, ICDM 2023, https://arxiv.org/abs/2309.06805;
details follow the authors' code, https://github.com/EricLoong/feddip.
Differs from the paper: Adam instead of SGD with a falling rate; each client's first mask is drawn
from the run's seed. Masks are chosen among all weights each time, since clients bring pruned ones
back; a share is rounded down. As the code does for ResNets, the classifier and downsampling are not
pruned; neither are norms and biases. Clients send all their weights, as the code does, unless
``prune_upload``: then both directions hold the mask's weights only, and what was pruned can't come
back. The code's ledger, which takes the share of exact zeros for the cost, and its second forward
pass are left out: bytes are those that travel.
Differs from the code, unless ``code_compat``: the code's server applies its last mask before it
prunes by size again, so each mask lies within the one before and nothing comes back; and it rounds
a share to the nearest number of weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core import domains, limits, masks, seeding
from fedx_core.domains import Domain
from fedx_core.errors import ConfigError
from fedx_core.masks import Mask
from fedx_core.messages import Schema, ServerState, Update
from fedx_core.methods import base
from fedx_core.methods.base import Local, ModelInfo, Updates, Wire
from fedx_core.sparsity import churn, erdos_renyi_kernel, largest, largest_of_all
from fedx_core.structure import Mode
from fedx_core.training import LocalRule

STEPS = 20
"""Equal parts of the run over which the penalty rises."""


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg whose model is pruned by size at the server and trained whole at the clients.

    Args:
        sparsity: share of the prunable weights that are zero in the end (s_p), in (0, 1).
        start_sparsity: the same in the first round (s_0), in [0, ``sparsity``].
        target_round: the round in which sparsity and penalty are full (T); all rounds in the paper.
        reconfigure_every: rounds for which a mask holds (R); the first round is always one.
        penalty: the largest weight of the sum of the layers' norms (lambda_max), 0 or more; 0 is
            no penalty at all.
        first_penalty: its weight in the second of the twenty parts of the run; none in the first.
        prune_upload: clients send the mask's weights only.
        code_compat: do as the authors' code does where it departs from the paper; see above.
    """

    says: ClassVar[Mapping[str, Domain]] = {**base.Method.says, "client_regrown": domains.SHARE}

    sparsity: float = 0.9
    start_sparsity: float = 0.5
    target_round: int = 20
    reconfigure_every: int = 5
    penalty: float = 1e-3
    first_penalty: float = 5e-4
    prune_upload: bool = False
    code_compat: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start_sparsity <= self.sparsity < 1:
            raise ConfigError(
                "start_sparsity and sparsity must lie in [0, 1), the first no larger than the "
                f"second, got {self.start_sparsity} and {self.sparsity}"
            )
        rounds = {"target_round": self.target_round, "reconfigure_every": self.reconfigure_every}
        limits.at_least(1, **rounds)
        limits.at_least(0, penalty=self.penalty, first_penalty=self.first_penalty)

    def target(self, round_index: int) -> float:
        """Return the sparsity that a round is to reach: s_p + (s_0 - s_p) (1 - t/T)^3, t from 0."""
        left = 1 - min((round_index - 1) / self.target_round, 1)
        return self.sparsity + (self.start_sparsity - self.sparsity) * left**3

    def strength(self, round_index: int) -> float:
        """Return the penalty's weight in a round (lambda_t): 0, then even steps upwards."""
        step = min((round_index - 1) * STEPS // self.target_round, STEPS - 1)
        if step == 0 or self.penalty == 0:
            return 0.0
        first = min(self.first_penalty, self.penalty)
        return first + (self.penalty - first) / (STEPS - 1) * (step - 1)

    def pruning_to_come(self, server: ServerState) -> bool:
        """Tell whether the target is yet to be reached."""
        return server.round_index < self.target_round

    def masked(self, info: ModelInfo) -> tuple[str, ...]:
        """Leave the classifier and downsampling alone."""
        layers = (layer for layer in info.graph.layers if "downsample" not in layer.name)
        return tuple(layer.weight for layer in layers)

    def schema(
        self, info: ModelInfo, mask: Mask | None, mode: Mode | None, variant: str = ""
    ) -> Wire:
        """Let clients send everything, unless ``prune_upload``."""
        wire = super().schema(info, mask, mode, variant)
        return wire if self.prune_upload else replace(wire, up=Schema(wire.down.entries))

    def first_mask(self, info: ModelInfo, seed: int) -> Mask:
        """Draw a client's mask of the first round: ERK densities at s_0, places at random."""
        shapes = {name: info.entries[name][1] for name in self.masked(info)}
        counts = erdos_renyi_kernel(shapes, self.start_sparsity)
        random = seeding.torch_generator(seeding.derive(seed, "mask"))
        drawn = {n: torch.rand(shape, generator=random) for n, shape in shapes.items()}
        return Mask("parameters", {n: largest(v, counts[n]) for n, v in drawn.items()})

    def rule(self, local: Local) -> LocalRule:
        """Go forward with the pruned weights, and move all of them by the gradient there."""
        kept = (local.mask or self.first_mask(local.info, local.seed)).entries
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
        kept = (local.mask or self.first_mask(local.info, local.seed)).entries
        update = super().finish(local, loss)
        model = {f"model/{name}": value for name, value in kept.items()}
        payload = masks.apply(update.payload, model) if self.prune_upload else update.payload
        whole = sum(float(update.payload[n].double().square().sum()) for n in model)
        back = sum(float(update.payload[n][~m].double().square().sum()) for n, m in model.items())
        said = {**update.metrics, "client_regrown": (back / whole) ** 0.5 if whole else 0.0}
        return replace(update, payload=payload, metrics=said)

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Average as FedAvg does, and prune; every R rounds, with a new mask."""
        mean = super().aggregate(server, updates, info)
        mask = server.mask
        if mask is None or server.round_index % self.reconfigure_every == 0:
            weights = {name: mean.model[name] for name in self.masked(info)}
            mask = largest_of_all(
                weights,
                self.target(mean.round_index),
                alive=mask if self.code_compat else None,
                nearest=self.code_compat,
            )
        return self.pruned(mean, mask, info)

    def paper_bytes(self, info: ModelInfo, kept: int, variant: str = "") -> int:
        """Charge all parameters where clients send all."""
        whole = sum(torch.Size(info.graph.shapes[name]).numel() for name in info.graph.parameters)
        return 4 * (kept + (kept if self.prune_upload else whole))

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say how much of the mask is new, what it aims at, and how strong the penalty was."""
        return {
            "churn": churn(before.mask, after.mask),
            "target_sparsity": self.target(after.round_index),
            "penalty": self.strength(after.round_index),
        }


def prune_through(value: Tensor, kept: Tensor) -> Tensor:
    """Zero what is not kept, and let the gradient through to all of it."""
    kept = kept.to(value.device, non_blocking=True)
    return value + (value * kept - value).detach()
