"""Teach a network which images are alike, by what others find alike, without any label.

Each teacher's view of a batch is how likely image j is to stand for image i, by the cosines of what
it makes of them. That does not depend on the basis in which a teacher embeds images, so teachers
that were trained apart can be averaged:

    p_ij  = softmax over j other than i of z_i z_j / tau
    L_sim = 1/|B| sum_i KL( sum_k alpha_k p^(k)_i || p_i )

Teachers see the images as they are, at a temperature of their own. The mean of several is blurred,
and a student of a blurred mean comes to find all alike; so theirs is the lower one.

Source: relations as targets: W. Park et al., Relational Knowledge Distillation, CVPR 2019,
https://arxiv.org/abs/1904.05068; a federation's teachers: T. Lin et al., Ensemble Distillation for
Robust Model Fusion in Federated Learning, NeurIPS 2020, https://arxiv.org/abs/2006.07242; a
lower temperature for teachers, and views for the student alone: M. Zheng et al., ReSSL: Relational
Self-Supervised Learning with Weak Augmentation, NeurIPS 2021, https://arxiv.org/abs/2107.09282.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base import seeding
from fedx_core.images.examples import Examples
from fedx_core.learning.training import seen_in_epoch
from fedx_core.objectives.base import Objective, Task

LEAST = 32
"""Images of a batch at least: among fewer there is little that is alike."""
COLLAPSED = 0.98
"""Mean cosine of pairs from which a teacher says the same of all images."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of a batch, from unit vectors (n, width) and the images' places, int64 (n,)."""


class Pupil:
    """A network and the public images that it learns from.

    Args:
        network: to embed images with; weights are the caller's to load, and it is on ``device``.
        objective: says what images are compared by.
        public: images, at least :data:`LEAST`.
        task: how they become inputs, and what views of them may be drawn.
        device: where to compute.
        at_once: images that are embedded at once.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        public: Examples,
        task: Task,
        device: torch.device,
        at_once: int,
    ) -> None:
        self.network = network.to(device)
        self.objective, self.public, self.task = objective, public, task
        self.device, self.at_once = device, at_once

    @torch.no_grad()
    def embedded(self) -> Tensor:
        """Measure BatchNorm's statistics on the images, and embed them: unit float32 (n, width)."""
        norms = [
            m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        if norms:
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # take the batch's own, and mix in nothing
            self.network.train()
            self.objective.embedded(self.network, self._inputs(torch.arange(len(self.public))))
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        self.network.eval()
        parts = torch.split(torch.arange(len(self.public)), self.at_once)
        return torch.cat([self._vectors(self._inputs(part)) for part in parts]).cpu()

    def _inputs(self, chosen: Tensor) -> Tensor:
        return self.task.pixels.to_input(self.public.images[chosen.numpy()], self.device)

    def _vectors(self, inputs: Tensor) -> Tensor:
        return unit(self.objective.vectors(self.network, inputs))

    def taught(
        self,
        loss: Loss,
        *,
        epochs: int,
        rate: float,
        batch: int,
        seed: int,
        support: Mapping[str, Tensor],
        views: bool = False,
    ) -> None:
        """Train the network with Adam, in place; normalised by its batches.

        Args:
            loss: what is minimised.
            epochs: over the images.
            rate: of learning.
            batch: images in it.
            seed: of their order, and of the views.
            support: weights that are not kept stay zero, bool by name.
            views: look at a view of each image, as the objective draws them, not at itself.
        """
        self.network.train()
        parameters = dict(self.network.named_parameters())
        optimiser = torch.optim.Adam(parameters.values(), lr=rate)
        for epoch in range(epochs):
            random = seeding.torch_generator(seeding.derive(seed, epoch))
            order = torch.randperm(len(self.public), generator=random)
            for step, chosen in enumerate(batches(order, batch)):
                inputs = self._inputs(chosen)
                if views:
                    draws = seeding.numpy_generator(seeding.derive(seed, epoch, step, "views"))
                    seen = self.objective.views(self.network, inputs, None, self.task, draws)
                    inputs = seen.views[0]
                found = loss(self._vectors(inputs), chosen)
                optimiser.zero_grad()
                found.backward()
                optimiser.step()
                with torch.no_grad():
                    for name, kept in support.items():
                        if name in parameters:
                            parameters[name].mul_(kept.to(self.device))
        optimiser.zero_grad(set_to_none=True)


def batches(order: Tensor, batch: int) -> Sequence[Tensor]:
    """Cut an order of images into batches; a rest of fewer than :data:`LEAST` is left out."""
    return torch.split(order[: seen_in_epoch(len(order), batch, LEAST)], batch)


def unit(vectors: Tensor) -> Tensor:
    """Bring vectors (n, width) to length one, in float32."""
    return functional.normalize(vectors.float(), dim=1)


def relations(vectors: Tensor, temperature: float) -> Tensor:
    """Return log p, float32 (n, n); the diagonal is minus infinity.

    Args:
        vectors: of length one, (n, width).
        temperature: tau.
    """
    logits = vectors @ vectors.T / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return logits.masked_fill(itself, -torch.inf).log_softmax(1)


def agreed(
    teachers: Sequence[Tensor], weights: Sequence[float], chosen: Tensor, temperature: float
) -> Tensor:
    """Average what teachers find alike in a batch: float32 (n, n), rows of sum one.

    Args:
        teachers: unit vectors of all images, each (all, width).
        weights: of the teachers, by their sum.
        chosen: the batch, int64 (n,).
        temperature: tau.
    """
    whole = math.fsum(weights)
    return torch.stack(
        [
            weight / whole * relations(vectors[chosen], temperature).exp()
            for vectors, weight in zip(teachers, weights, strict=True)
        ]
    ).sum(0)


def divergence(taught: Tensor, found: Tensor) -> Tensor:
    """Return the mean over rows of KL(taught || found).

    Args:
        taught: shares, (n, n).
        found: log shares, likewise; where one is minus infinity, ``taught`` is 0.
    """
    there = taught > 0
    surprise = taught * (taught.clamp(min=1e-38).log() - found.masked_fill(~there, 0.0))
    return surprise.masked_fill(~there, 0.0).sum(1).mean()


def likeness(vectors: Tensor) -> float:
    """Return the mean cosine of all pairs of unit vectors (n, width), n at least 2."""
    count = len(vectors)
    square = float(vectors.double().sum(0).square().sum())
    return (square - count) / (count * (count - 1))
