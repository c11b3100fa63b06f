"""Steps look for what is flat for the whole federation, and stay close to the server's encoder.

Two things guide a client that sees a part of the data alone. Gradients are taken at w + e, a little
further up the loss of all clients: against the server's last step, as far as this client has seen
it. And what the network makes of an image is to be like what the server's makes of it:

    e       = rho (v_before - v) / ||v_before - v||    v, v_before: the models sent now and before
    L_align = mean of 1 - cos(z(x), sg z_v(x))         over all views x of a batch
    w       <- w - eta grad(L + lambda L_align)(w + e)

Source: server-to-clients guidance of J. Tan, C. Zhang, B. Dang, Y. Li, Towards Privacy-preserved
Pre-training of Remote Sensing Foundation Models with Federated Mutual-guidance Learning (FedSense),
2025, https://arxiv.org/abs/2503.11051. No equation of it could be read, so this is FedSense-style:
our reading of its summary. That the server's steps tell where the loss of all rises is from Z. Fan
et al., Locally Estimated Global Perturbations are Better than Local Perturbations for Federated
Sharpness-aware Minimization (FedLESAM), ICML 2024, https://proceedings.mlr.press/v235/fan24c.html.
Differs from FedLESAM: one norm over all parameters, no sum of the tensors' own, and gradients are
not clipped. The server's network normalises by the batch, as the client's does, since BatchNorm's
statistics may not travel. Alignment is of projections, of mean tokens or mean features where images
are masked, and of logits where labels are learned.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base import limits, state
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import StateDict
from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local
from fedx_core.learning.training import LocalRule
from fedx_core.local_rules import base
from fedx_core.objectives.base import Objective, Seen
from fedx_core.pruning import masks
from fedx_core.pruning.shrink.values import cut

RECEIVED = "received"
"""Section of a client's memory: the parameters that it was sent in its last turn."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the guidance.

    Args:
        rho: length of the step up the loss of all clients, 0 or more; 0 does without. Grid: 0.02,
            0.05, 0.1, 0.5.
        align: weight of the alignment with the server's encoder (lambda), 0 or more; 0 does
            without.
        ramp: rounds over which that weight rises from 0, since a random encoder is no guide; a
            fifth of the run's.
    """

    rho: float = 0.05
    align: float = 0.5
    ramp: int = 4

    def __post_init__(self) -> None:
        limits.at_least(0, rho=self.rho, align=self.align, ramp=self.ramp)


@dataclass(frozen=True, kw_only=True)
class Rule(Settings, base.Rule):
    """Guidance by what the server has sent."""

    remembers: ClassVar[bool] = True

    def check(self, desk: Desk) -> None:
        """Refuse heads that the server never sees."""
        if self.align and desk.objective.local(desk.model):
            raise ConfigError(
                "training.objective.heads: local heads stay with their clients, and clients are "
                "aligned with what the server's make of images; set it to shared, or align to 0"
            )

    def rule(self, local: Local) -> LocalRule | None:
        """Move to where gradients are taken, and add the alignment to the loss."""
        ascent = cut(self.ascent(local), local.cuts)
        strength = self.strength(local.round_index)
        if not ascent and not strength:
            return None
        on_device: StateDict = {}

        def effective(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
            if ascent and not on_device:
                device = next(iter(parameters.values())).device
                on_device.update({name: value.to(device) for name, value in ascent.items()})
            return {n: v + on_device[n] if n in on_device else v for n, v in parameters.items()}

        guide = local.as_sent() if strength else None

        def penalty(model: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]) -> Tensor:
            assert guide is not None
            guide.to(seen.views[0].device)
            objective = local.desk.objective
            pairs = _vectors(objective, model, seen, outputs, effective if ascent else None)
            with torch.no_grad():
                guides = [objective.vectors(guide, images) for _, images in pairs]
            found = [apart(z, z_v) for (z, _), z_v in zip(pairs, guides, strict=True)]
            return strength * torch.stack(found).mean()

        return LocalRule(
            effective=effective if ascent else None,
            penalty_of_batch=penalty if strength else None,
        )

    def ascent(self, local: Local) -> StateDict:
        """Return e, dense; nothing in a client's first turn, or while the server stood still."""
        before = state.section(local.memory, RECEIVED)
        if not self.rho or not before:
            return {}
        now = state.section(local.downlink, "model")
        back = {name: value - now[name] for name, value in before.items()}
        back = masks.apply(back, local.desk.graph.support(local.mask, "slices"))
        length = state.norm(back)
        return {name: self.rho / length * value for name, value in back.items()} if length else {}

    def strength(self, round_index: int) -> float:
        """Return lambda in a round: 0 in the first, the whole after ``ramp``."""
        return self.align * (min(1.0, (round_index - 1) / self.ramp) if self.ramp else 1.0)

    def kept(self, local: Local) -> StateDict:
        """Keep the parameters that were sent."""
        if not self.rho:
            return {}
        sent = state.section(local.downlink, "model")
        parameters = local.desk.graph.parameters
        return state.as_section({n: v for n, v in sent.items() if n in parameters}, RECEIVED)


def apart(vectors: Tensor, guides: Tensor) -> Tensor:
    """Return the mean of 1 - cos over pairs of vectors (n, width)."""
    one, other = (nn.functional.normalize(part.float(), dim=1) for part in (vectors, guides))
    return (1 - (one * other).sum(1)).mean()


class _Seen(nn.Module):
    """What is compared of a step, as a module's output, so that it is had with other weights."""

    def __init__(self, objective: Objective, network: nn.Module) -> None:
        super().__init__()
        self.objective, self.network = objective, network

    def forward(self, seen: Seen, outputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
        return self.objective.vectors_seen(self.network, seen, outputs)


def _vectors(
    objective: Objective,
    model: nn.Module,
    seen: Seen,
    outputs: tuple[Tensor, ...],
    effective: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None,
) -> tuple[tuple[Tensor, Tensor], ...]:
    if effective is None:
        return objective.vectors_seen(model, seen, outputs)
    weights = effective(dict(model.named_parameters()))
    moved = {f"network.{name}": value for name, value in weights.items()}
    return torch.func.functional_call(_Seen(objective, model), moved, (seen, outputs))  # type: ignore[no-any-return] # torch
