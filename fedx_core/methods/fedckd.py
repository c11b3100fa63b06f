"""Clients learn from the server's network, and from how images relate to other images.

Beside the contrast of two views a client contrasts its predictor's guess with what the server's
network makes of the other view; and both views are to be like other images in the same way, those
being seen by the client itself and by the server's network:

    L = NTX(h, h+) + NTX(q(h), sg g+) + JS(q(h), q(h+); sg g_r) + JS(h, h+; h_r)

where h and g are the projections of client and server, q is the client's predictor, and r another
batch of the client's images.

Source: S. Han, S. Park, F. Wu, S. Kim, C. Wu, X. Xie, M. Cha, FedX: Unsupervised Federated Learning
with Cross Knowledge Distillation, ECCV 2022, https://arxiv.org/abs/2207.09158, equations 3 to 9.
The name here says what it does, since another FedX gave this package its name. Details follow the
authors' code, https://github.com/Sungwon-Han/FEDX.
Differs from the code: where a part of the clients is asked, weights sum to one, where theirs are
shares of all clients and shrink the model. The server's network normalises by the batch, since
BatchNorm's statistics may not travel, and each batch by itself. Gradients reach h_r, as there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedx_core.base import limits, seeding
from fedx_core.base.errors import ConfigError
from fedx_core.learning.training import LocalRule
from fedx_core.local_rules.base import combined
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local
from fedx_core.objectives import simclr
from fedx_core.objectives._contrast import project, unit
from fedx_core.objectives.base import Seen


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg with cross knowledge distillation; goes with ``simclr`` that has a predictor.

    Args:
        temperature: of what is added, positive; the first term has that of the objective, which is
            0.1 in the paper.
    """

    pre_trains: ClassVar[bool] = True

    temperature: float = 0.1

    def __post_init__(self) -> None:
        limits.positive(temperature=self.temperature)

    def check(self, desk: Desk) -> None:
        """Ask for two views, a projector and a predictor."""
        super().check(desk)
        if not (isinstance(desk.objective, simclr.Objective) and desk.objective.predictor):
            raise ConfigError(
                "fedckd distils projections and predictions of two views, and training.objective "
                f"{desk.plan.training.objective.name} as it is has not both; set it to "
                "{name: simclr, temperature: 0.1, predictor: true}"
            )
        if desk.objective.local(desk.model):
            raise ConfigError(
                "training.objective.heads: local heads stay with their clients, and fedckd learns "
                "from what the server's make of images; set it to shared"
            )

    def rule(self, local: Local) -> LocalRule | None:
        """Add three terms to the contrast of the views."""
        server = local.as_sent()
        others = _others(local)

        def penalty(model: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]) -> Tensor:
            one, other = outputs
            device = seen.views[0].device
            server.to(device)
            rest = others(device)
            with torch.no_grad():
                taught, relatives = (project(server, images) for images in (seen.views[1], rest))
            predictor = model.get_submodule("predictor")
            guess, guess_other = predictor(torch.cat([one, other])).chunk(2)
            tau = self.temperature
            return (
                simclr.contrast(guess, taught, tau)
                + apart(guess, guess_other, relatives, tau)
                + apart(one, other, project(model, rest), tau)
            )

        return combined(super().rule(local), LocalRule(penalty_of_batch=penalty))


def _others(local: Local) -> Callable[[torch.device], Tensor]:
    """Return a function that draws another batch of views at each call, the same in each go."""
    plan = local.desk.plan
    examples, settings = local.examples, plan.training
    task = local.desk.task(examples)
    drawn = 0

    def draw(device: torch.device) -> Tensor:
        nonlocal drawn
        random = seeding.numpy_generator(seeding.derive(local.seed, drawn, "others"))
        drawn += 1
        count = min(settings.batch_size, len(examples))
        chosen = np.sort(random.permutation(len(examples))[:count])
        inputs = plan.pixels.to_input(np.asarray(examples.images[chosen]), device)
        return local.desk.objective.views(local.model, inputs, None, task, random).views[0]

    return draw


def apart(one: Tensor, other: Tensor, relatives: Tensor, temperature: float) -> Tensor:
    """Return how differently two views relate to other images: a mean Jensen-Shannon divergence.

    Args:
        one: first views, (n, width).
        other: second views of the same images.
        relatives: other images, (m, width).
        temperature: of the softmax over them.
    """
    to = unit(relatives).T
    logs = [(unit(part) @ to / temperature).log_softmax(1) for part in (one, other)]
    middle = (logs[0].exp() + logs[1].exp()) / 2
    log_middle = torch.logaddexp(*logs) - math.log(2)
    found = [(middle * (log_middle - log)).sum(1).mean() for log in logs]
    return torch.stack(found).mean()
