"""The server steps by Adam: the mean of the clients' changes is its gradient.

Source: S. Reddi et al., Adaptive Federated Optimization, ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2 (FedAdam).
Differs from the paper: BatchNorm's statistics are no weights: they are averaged plainly. As in the
paper, moments are not corrected for their start.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedx_core.base import limits
from fedx_core.desk.desk import Desk
from fedx_core.server_steps import base
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of Adam at the server; the moments are the server's memory.

    Args:
        learning_rate: of the server (eta), positive.
        beta_1: share of the first moment that stays from round to round, in [0, 1).
        beta_2: the same of the second moment.
        tau: added to the root of the second moment, which starts at its square; positive. The
            larger, the less the steps adapt.
    """

    learning_rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        limits.positive(learning_rate=self.learning_rate, tau=self.tau)
        limits.within("[0, 1)", beta_1=self.beta_1, beta_2=self.beta_2)


@dataclass(frozen=True, kw_only=True)
class ServerStep(Settings, base.ServerStep):
    """Adam on the mean change."""

    def step(self, desk: Desk, before: ServerState, averaged: ServerState) -> ServerState:
        """Take the mean change as a gradient, and step (algorithm 2, lines 10 to 14)."""
        model, memory = dict(averaged.model), dict(averaged.memory)
        for name, old in before.model.items():
            if name not in desk.graph.parameters:
                continue
            change = averaged.model[name] - old
            m = before.memory.get(f"m/{name}", torch.zeros_like(old))
            v = before.memory.get(f"v/{name}", torch.full_like(old, self.tau**2))
            m = self.beta_1 * m + (1 - self.beta_1) * change
            v = self.second_moment(v, change.square())
            model[name] = old + self.learning_rate * m / (v.sqrt() + self.tau)
            memory |= {f"m/{name}": m, f"v/{name}": v}
        return replace(averaged, model=model, memory=memory)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Move the second moment towards the squared change (line 13, FedAdam)."""
        return self.beta_2 * v + (1 - self.beta_2) * square

    def measured(self, desk: Desk, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say how far the server stepped: the norm of all parameters' change."""
        return {"server_step": base.step_size(desk, before, after)}
