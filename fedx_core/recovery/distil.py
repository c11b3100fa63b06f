"""The pruned model is taught by the one from before the event, on the server's own images.

A few hundred steps of Adam draw the pruned model's answers to the old one's, at a temperature:

    T² · KL(softmax(z_before / T) ‖ softmax(z / T))

or, where an image has several labels, the binary cross-entropy to the old model's probabilities at
that temperature. Labels are not looked at. Clients hold the teacher already and never need it.

Source: G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015,
https://arxiv.org/abs/1503.02531, section 2.
Differs from the paper: no term for the true labels, which the reference set is too small for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from fedx_core.base import limits, seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.desk.desk import Desk
from fedx_core.learning.training import hold
from fedx_core.pruning.shrink.values import grow
from fedx_core.recovery import base
from fedx_core.recovery.reconstruct import Recovery as Reconstruction
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class Recovery(base.Recovery):
    """Distils from the model before the event.

    Args:
        steps: of Adam.
        batch_size: images in each, mirrored at random; all there are where they are fewer.
        learning_rate: in the first step; it falls to zero as half a cosine does.
        temperature: T.
        reconstruct: refit the readers of pruned units first, as the recovery of that name does.
        ridge: of that.
    """

    steps: int = 200
    batch_size: int = 50
    learning_rate: float = 0.001
    temperature: float = 2.0
    reconstruct: bool = False
    ridge: float = 0.01

    def __post_init__(self) -> None:
        limits.at_least(1, steps=self.steps)
        limits.at_least(2, batch_size=self.batch_size)
        limits.positive(
            learning_rate=self.learning_rate, temperature=self.temperature, ridge=self.ridge
        )

    def check(self, desk: Desk) -> None:
        """Refuse objectives without answers to teach."""
        if not desk.objective.answers:
            raise ConfigError(
                "recovery distil teaches the answers of the model before, and training.objective "
                f"{desk.plan.training.objective.name} has none; set recovery to reconstruct or none"
            )
        if self.reconstruct:
            self._first.check(desk)

    @property
    def _first(self) -> Reconstruction:
        return Reconstruction(ridge=self.ridge)

    def recovered(
        self,
        desk: Desk,
        before: ServerState,
        after: ServerState,
        support: Mapping[str, Tensor],
    ) -> ServerState:
        """Teach the model that clients train, which is small where units have gone."""
        if self.reconstruct:
            after = self._first.recovered(desk, before, after, support)
        images = _images(desk)
        taught = _answers(desk, before, images)
        student = desk.loaded(after.model, after.mask).to(desk.device).train()
        kept = {} if desk.cuts(after.mask) else support
        rule = hold({**kept, **desk.existing})
        optimiser = torch.optim.Adam(student.parameters(), lr=self.learning_rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        random = seeding.torch_generator(seeding.derive(desk.seed, after.round_index, "recovery"))
        for _ in range(self.steps):
            chosen = torch.randperm(len(taught[0]), generator=random)[: self.batch_size]
            way = int(torch.randint(len(WAYS), (), generator=random))
            batch = torch.flip(images[chosen], WAYS[way]).to(desk.device)
            optimiser.zero_grad()
            loss = self._loss(student(batch), taught[way][chosen].to(desk.device), desk)
            loss.backward()
            if rule.before_step is not None:
                rule.before_step(student)
            optimiser.step()
            falling.step()
        values = state.copy(student.eval().to("cpu").state_dict())
        return replace(after, model=grow(values, desk.cuts(after.mask)))

    def _loss(self, found: Tensor, taught: Tensor, desk: Desk) -> Tensor:
        found, taught = found / self.temperature, taught / self.temperature
        if desk.plan.label_kind == "multi":
            loss = functional.binary_cross_entropy_with_logits(found, taught.sigmoid())
        else:
            loss = functional.kl_div(
                found.log_softmax(1), taught.log_softmax(1), reduction="batchmean", log_target=True
            )
        return self.temperature**2 * loss


WAYS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Dimensions along which images are mirrored: a nadir image has no up or left."""


def _images(desk: Desk) -> Tensor:
    """Return the server's images as the model's inputs: the reference set, and public ones."""
    own = desk.reference_set().images
    if desk.public is None:
        return own
    return torch.cat([own, desk.plan.pixels.to_input(desk.public.images, own.device)])


@torch.no_grad()
def _answers(desk: Desk, before: ServerState, images: Tensor) -> tuple[Tensor, ...]:
    """Return the old model's logits for images mirrored each way, float32 (images, classes)."""
    teacher = desk.loaded(before.model, before.mask).to(desk.device).eval()
    size = desk.plan.training.eval_batch_size
    parts = [images[start : start + size].to(desk.device) for start in range(0, len(images), size)]
    return tuple(torch.cat([teacher(torch.flip(p, way)).cpu() for p in parts]) for way in WAYS)
