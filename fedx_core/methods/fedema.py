"""Clients go on from a mixture of the server's model and their own, the nearer to it the less.

A client whose training moves its model far has data unlike the others'; it keeps more of itself:

    w_k = mu w_k + (1 - mu) w      mu = min(lambda_k d_k, 1)
    lambda_k = tau / d_k           set once, after the client's first round

where d_k is how far its last training moved the encoder. With BYOL the target stays at the client
as well.

Source: W. Zhuang, Y. Wen, S. Zhang, Divergence-aware Federated Self-Supervised Learning, ICLR 2022,
https://arxiv.org/abs/2204.04385; details follow the authors' code,
https://github.com/weimingwill/EasyFL (applications/fedssl).
Differs from the paper: d_k is, as in the code, the mean over the encoder's weights of the Euclidean
norm of what training changed, from where it began, where the paper measures the distance to the
server's model. All weights of layers count, where the code takes those with ``conv`` in their name
and so leaves out shortcuts and transformers. Heads are as narrow as the encoder. Clients are
weighted by their examples. BatchNorm's statistics are the server's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import torch

from fedx_core.base import limits, state
from fedx_core.base.state import StateDict
from fedx_core.desk.desk import Desk
from fedx_core.methods import base
from fedx_core.methods.base import Local
from fedx_core.pruning import masks
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Update

OWN, DIVERGED, SCALE = "own", "diverged/last", "diverged/scale"
"""What a client keeps: its parameters, how far training moved them, and lambda."""


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg whose clients keep a part of their own models.

    Args:
        tau: share of itself that a client keeps in its second round, positive; more where it moves
            farther than in its first.
    """

    pre_trains: ClassVar[bool] = True
    numbers: ClassVar[Mapping[str, Domain]] = {
        **base.Method.numbers,
        "client_divergence": domains.RATIO,
        "client_kept_share": domains.SHARE,
    }

    tau: float = 0.7

    def __post_init__(self) -> None:
        limits.positive(tau=self.tau)

    def train(self, local: Local) -> Update:
        """Mix, train, and keep what was learned."""
        share = self.share(local.memory)
        start = self.mixed(local, share)
        local.load(start)
        update = self.finish(local, self.fitted(local, self.rule(local)))
        trained = local.trained(start)
        moved = divergence(local.desk, start, trained)
        scale = local.memory.get(SCALE, torch.tensor([self.tau / moved if moved else 0.0]))
        own = {name: trained[name] for name in trained if name in local.desk.graph.parameters}
        memory = {
            **(update.memory or {}),
            **state.as_section(own, OWN),
            DIVERGED: torch.tensor([moved]),
            SCALE: scale,
        }
        numbers = {"client_divergence": moved, "client_kept_share": share}
        return replace(update, memory=memory, metrics={**update.metrics, **numbers})

    def share(self, memory: Mapping[str, torch.Tensor]) -> float:
        """Return mu; 0 for who has kept nothing yet."""
        if DIVERGED not in memory:
            return 0.0
        return min(float(memory[SCALE]) * float(memory[DIVERGED]), 1.0)

    def mixed(self, local: Local, share: float) -> StateDict:
        """Mix what the client kept with what it was sent; what is dead stays at zero."""
        sent = local.sent()
        support = self.support(local.desk, local.mask, "slices")
        own = masks.apply(state.section(local.memory, OWN), support)
        return {
            name: share * own[name] + (1 - share) * value if name in own else value
            for name, value in sent.items()
        }


def divergence(desk: Desk, before: Mapping[str, torch.Tensor], after: StateDict) -> float:
    """Return the mean over the encoder's layers of the norm of their weights' change."""
    norms = [
        state.norm({name: after[name] - value})
        for name, value in before.items()
        if name in desk.graph.parameters and value.ndim > 1 and name not in desk.heads
    ]
    return fmean(norms)
