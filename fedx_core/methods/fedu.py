"""Clients take the server's encoder, and its predictor only if it is not far from their own.

With BYOL a predictor guesses what a client's own target makes of images. Where training has moved
the encoder far, the data are unlike the others', and the client keeps the predictor that fits them:

    predictor_k = the server's if d_k < mu, else the client's own

where d_k is how far its last training moved the encoder. The target stays at the client.

Source: W. Zhuang, X. Gan, Y. Wen, S. Zhang, S. Yi, Collaborative Unsupervised Visual Representation
Learning from Decentralized Data (FedU), ICCV 2021, https://arxiv.org/abs/2108.06492; details follow
the authors' code, https://github.com/weimingwill/EasyFL (applications/fedssl).
Differs from the paper: d_k is measured as in ``fedema``, and so as in the code but for the layers
that count; mu depends on model, rate and epochs, so look at ``client_divergence`` first. Heads are
as narrow as the encoder. Where an objective has no predictor, what is kept or taken is its heads:
the projector, the decoder, or the classifier.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedx_core.base import limits, state
from fedx_core.base.state import StateDict
from fedx_core.desk.desk import Desk
from fedx_core.methods import base
from fedx_core.methods.base import Local
from fedx_core.methods.fedema import DIVERGED, OWN, divergence
from fedx_core.pruning import masks
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Update


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg whose clients may keep their predictors.

    Args:
        threshold: of the divergence from which a client keeps its own predictor (mu), 0 or more.
    """

    pre_trains: ClassVar[bool] = True
    numbers: ClassVar[Mapping[str, Domain]] = {
        **base.Method.numbers,
        "client_divergence": domains.RATIO,
        "client_keeps_predictor": domains.SHARE,
    }

    threshold: float = 0.4

    def __post_init__(self) -> None:
        limits.at_least(0, threshold=self.threshold)

    def train(self, local: Local) -> Update:
        """Take over what fits, train, and keep the predictor."""
        start = self.chosen(local)
        local.load(start)
        update = self.finish(local, self.fitted(local, self.rule(local)))
        trained = local.trained(start)
        moved = divergence(local.desk, start, trained)
        own = {name: trained[name] for name in guessing(local.desk)}
        memory = {
            **(update.memory or {}),
            **state.as_section(own, OWN),
            DIVERGED: torch.tensor([moved]),
        }
        numbers = {
            "client_divergence": moved,
            "client_keeps_predictor": float(self.keeps(local.memory)),
        }
        return replace(update, memory=memory, metrics={**update.metrics, **numbers})

    def keeps(self, memory: Mapping[str, Tensor]) -> bool:
        """Tell whether a client goes on with its own predictor."""
        return DIVERGED in memory and not float(memory[DIVERGED]) < self.threshold

    def chosen(self, local: Local) -> StateDict:
        """Return the model to begin with; what is dead stays at zero."""
        sent = local.sent()
        if not self.keeps(local.memory):
            return sent
        support = self.support(local.desk, local.mask, "slices")
        return {**sent, **masks.apply(state.section(local.memory, OWN), support)}


def guessing(desk: Desk) -> list[str]:
    """Name the parameters of the predictor, or of all heads where there is none."""
    heads = [n for n in desk.entries if n in desk.heads and n in desk.graph.parameters]
    return [name for name in heads if name.startswith("predictor.")] or heads
