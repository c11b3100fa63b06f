"""The server keeps momentum: each step goes on in the direction of the earlier ones.

Source: T. Hsu, H. Qi, M. Brown, Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification, 2019, https://arxiv.org/abs/1909.06335, section 4.3.
Differs from the paper: BatchNorm's statistics are no weights: they are averaged plainly.
"""

from dataclasses import dataclass, replace

import torch

from fedx_core.base import limits
from fedx_core.desk.desk import Desk
from fedx_core.server_steps import base
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of momentum at the server; the velocity is the server's memory.

    Args:
        momentum: share of the velocity that stays from round to round, in [0, 1); 0 is FedAvg.
        learning_rate: of the server, positive; 1 takes the velocity as it is. The velocity grows
            to 1 / (1 - momentum) of a steady change: lower the rate where that is too far.
    """

    momentum: float = 0.9
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        limits.within("[0, 1)", momentum=self.momentum)
        limits.positive(learning_rate=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class ServerStep(Settings, base.ServerStep):
    """Momentum of the mean change."""

    def step(self, desk: Desk, before: ServerState, averaged: ServerState) -> ServerState:
        """Add the mean change to the velocity, and step by it: v = momentum v + change."""
        model, memory = dict(averaged.model), dict(averaged.memory)
        for name, old in before.model.items():
            if name not in desk.graph.parameters:
                continue
            velocity = before.memory.get(f"velocity/{name}", torch.zeros_like(old))
            velocity = self.momentum * velocity + (averaged.model[name] - old)
            model[name] = old + self.learning_rate * velocity
            memory[f"velocity/{name}"] = velocity
        return replace(averaged, model=model, memory=memory)

    def measured(self, desk: Desk, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say how far the server stepped: the norm of all parameters' change."""
        return {"server_step": base.step_size(desk, before, after)}
