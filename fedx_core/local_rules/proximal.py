"""Clients are held near the weights that they were sent.

Many local steps on different data let clients drift apart. The local loss gains
``mu/2 ||w - w_t||^2``, where w_t is where local training begins.

Source: T. Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020,
https://arxiv.org/abs/1812.06127, equation 2 and algorithm 2.
Differs from the paper: the term covers parameters, not BatchNorm's statistics.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedx_core.base import limits
from fedx_core.desk.local import Local
from fedx_core.learning.training import LocalRule
from fedx_core.local_rules import base


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the proximal term.

    Args:
        mu: strength of the pull, 0 or more; 0 is FedAvg.
        code_compat: add ``mu/2`` times the norm of each tensor's change, not squared, as the code
            of FedDIP (https://github.com/EricLoong/feddip) does for its FedProx; the pull is then
            as strong near w_t as far from it.
    """

    mu: float = 0.01
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.at_least(0, mu=self.mu)


@dataclass(frozen=True, kw_only=True)
class Rule(Settings, base.Rule):
    """A pull towards the weights that were sent."""

    def rule(self, local: Local) -> LocalRule | None:
        """Add the proximal term to the loss (equation 2)."""
        if self.mu == 0:
            return None
        sent: list[Tensor] = []

        def penalty(model: nn.Module) -> Tensor:
            if not sent:  # before the first step, and on the device where the model is by now
                sent.extend(parameter.detach().clone() for parameter in model.parameters())
            changes = [w - w_t for w, w_t in zip(model.parameters(), sent, strict=True)]
            return self.mu / 2 * distance(changes, squared=not self.code_compat)

        return LocalRule(penalty=penalty)


def distance(changes: list[Tensor], *, squared: bool) -> Tensor:
    """Add up the Euclidean norms of some tensors, squared or as they are."""
    norms = [change.square().sum() if squared else change.norm() for change in changes]
    return torch.stack(norms).sum()
