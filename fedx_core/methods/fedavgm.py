"""FedAvg whose server keeps momentum: each step goes on in the direction of the earlier ones.

Source: T. Hsu, H. Qi, M. Brown, Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification, 2019, https://arxiv.org/abs/1909.06335, section 4.3.
Differs from the paper: clients train with Adam instead of SGD. BatchNorm's statistics are no
weights: they are averaged plainly.
Nothing is pruned, so there are no masks.
"""

from dataclasses import dataclass, replace

import torch

from fedx_core import limits
from fedx_core.messages import ServerState
from fedx_core.methods import base, fedadam
from fedx_core.methods.base import ModelInfo, Updates


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg with momentum at the server; the velocity is the server's memory.

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

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Add the mean change to the velocity, and step by it: v = momentum v + change."""
        averaged = super().aggregate(server, updates, info)
        model, memory = dict(averaged.model), {}
        for name, before in server.model.items():
            if name not in info.graph.parameters:
                continue
            velocity = server.memory.get(f"velocity/{name}", torch.zeros_like(before))
            velocity = self.momentum * velocity + (averaged.model[name] - before)
            model[name] = before + self.learning_rate * velocity
            memory[f"velocity/{name}"] = velocity
        return replace(averaged, model=model, memory=memory)

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say how far the server stepped: the norm of all parameters' change."""
        return {"server_step": fedadam.step_size(before, after, info)}
