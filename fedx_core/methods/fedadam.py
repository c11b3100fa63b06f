"""FedAvg whose server steps by Adam: the mean of the clients' changes is its gradient.

Source: S. Reddi et al., Adaptive Federated Optimization, ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2 (FedAdam). FedYogi is ``fedyogi``.
Differs from the paper: clients are weighted by their examples, and train with Adam instead of SGD.
BatchNorm's statistics are no weights: they are averaged plainly. As in the paper, moments are not
corrected for their start.
Nothing is pruned, so there are no masks.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedx_core import limits, state
from fedx_core.messages import ServerState
from fedx_core.methods import base
from fedx_core.methods.base import ModelInfo, Updates


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg with Adam at the server; the moments are the server's memory.

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

    def aggregate(self, server: ServerState, updates: Updates, info: ModelInfo) -> ServerState:
        """Take the mean change as a gradient, and step (algorithm 2, lines 10 to 14)."""
        averaged = super().aggregate(server, updates, info)
        model, memory = dict(averaged.model), dict[str, Tensor]()
        for name, before in server.model.items():
            if name not in info.graph.parameters:
                continue
            change = averaged.model[name] - before
            m = server.memory.get(f"m/{name}", torch.zeros_like(before))
            v = server.memory.get(f"v/{name}", torch.full_like(before, self.tau**2))
            m = self.beta_1 * m + (1 - self.beta_1) * change
            v = self.second_moment(v, change.square())
            model[name] = before + self.learning_rate * m / (v.sqrt() + self.tau)
            memory |= {f"m/{name}": m, f"v/{name}": v}
        return replace(averaged, model=model, memory=memory)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Move the second moment towards the squared change (line 13, FedAdam)."""
        return self.beta_2 * v + (1 - self.beta_2) * square

    def measured(
        self, before: ServerState, after: ServerState, info: ModelInfo
    ) -> dict[str, float]:
        """Say how far the server stepped: the norm of all parameters' change."""
        return {"server_step": step_size(before, after, info)}


def step_size(before: ServerState, after: ServerState, info: ModelInfo) -> float:
    """Return the Euclidean norm of the change of all parameters."""
    # A set's order is another in each process, and with it the sum's last digit.
    names = [name for name in after.model if name in info.graph.parameters]
    return state.norm({name: after.model[name] - before.model[name] for name in names})
