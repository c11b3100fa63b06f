"""Server and clients guide each other while they learn an encoder, in a few bits a parameter.

To the clients: steps are taken where the loss of all is flat, and near the server's encoder
(:mod:`fedx_core.local_rules.guided`). To the server: clients send their change in 1 to 8 bits a
parameter, and what that leaves out comes later (error feedback); the server averages, and then
learns from all clients' models which of some public images are alike
(:mod:`fedx_core.learning.similarity`).

Source: J. Tan, C. Zhang, B. Dang, Y. Li, Towards Privacy-preserved Pre-training of Remote Sensing
Foundation Models with Federated Mutual-guidance Learning (FedSense), ICCV 2025,
https://arxiv.org/abs/2503.11051.
Differs from the paper: this is FedSense-style. Abstract and summaries of the paper could be read,
its equations could not, and there is no code. From the paper are the two guidances, flatness of the
global loss with alignment to the server's encoder, low-bit updates with error feedback down to one
bit, and similarity distillation on public data; how each is done is our reading. A teacher is the
server's model plus a client's decoded change; BatchNorm's statistics of each are measured on the
public images. A teacher that finds all images alike says nothing and is left out: at one bit every
weight of it carries rounding noise, of which their mean has far less. With ``down_bits`` clients
are sent changes of what they hold, as in EF21-P (https://arxiv.org/abs/2209.15218).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from fedx_core.base import limits, seeding, state
from fedx_core.base.config import Plugin
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import StateDict
from fedx_core.codec.base import Codec
from fedx_core.learning import similarity
from fedx_core.learning.similarity import Pupil
from fedx_core.local_rules import guided
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Parts, Updates, taken
from fedx_core.objectives.base import Objective
from fedx_core.wire.messages import ServerState

Distil = Literal["off", "similarity", "feature"]
BITS = (*range(1, 9), 32)
DISTIL = "distil"
"""Section of the server's memory: numbers of the last round's distillation."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Method(guided.Settings, base.Method):
    """Mutual guidance: flatness and alignment down, few bits and distillation up.

    Args:
        bits: of a parameter's change on the way up, 1 to 8, or 32 for float32.
        feedback: add what an update left out to the client's next one.
        down_bits: of a parameter's change on the way down, likewise; 32 sends the model.
        distil: what the server learns on public images: which are ``similarity`` to the clients'
            models; the mean ``feature`` of them, which needs a basis that all share; or ``off``.
        distil_from: the first round in which it does.
        distil_temperature: of the softmax over similarities, positive.
        distil_teacher_temperature: of the clients' models', likewise; the lower, the more the
            nearest images count.
        distil_epochs: over the public images, a round.
        distil_rate: of learning, positive; Adam's.
        distil_batch: public images that are compared with each other, 32 or more.
        distil_views: let the server's model see a view of each image, and the clients' the image
            itself; for more than a few steps.
    """

    sees_each: ClassVar[bool] = True
    least_public: ClassVar[int] = similarity.LEAST
    pre_trains: ClassVar[bool] = True

    bits: int = 1
    feedback: bool = True
    down_bits: int = 32
    distil: Distil = "similarity"
    distil_from: int = 1
    distil_temperature: float = 0.1
    distil_teacher_temperature: float = 0.05
    distil_epochs: int = 2
    distil_rate: float = 1e-4
    distil_batch: int = 128
    distil_views: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bits", "down_bits"):
            if (bits := getattr(self, name)) not in BITS:
                raise ConfigError(f"{name} must be 1 to 8, or 32, got {bits}")
        limits.one_of(get_args(Distil), distil=self.distil)
        limits.positive(
            distil_temperature=self.distil_temperature,
            distil_teacher_temperature=self.distil_teacher_temperature,
            distil_rate=self.distil_rate,
        )
        limits.at_least(1, distil_from=self.distil_from, distil_epochs=self.distil_epochs)
        limits.at_least(similarity.LEAST, distil_batch=self.distil_batch)

    def own(self) -> Parts:
        """Guide clients' steps."""
        return Parts(local=taken(guided.Rule, self))

    @property
    def uplink(self) -> Plugin | None:
        """Send changes in few bits."""
        return _codec(self.bits, feedback=self.feedback)

    @property
    def downlink_codec(self) -> Plugin | None:
        """Send changes in few bits; what they lack is in the next one's difference."""
        return _codec(self.down_bits, feedback=False)

    @property
    def needs_public(self) -> bool:
        """Unless nothing is distilled."""
        return self.distil != "off" or super().needs_public

    def check(self, desk: Desk) -> None:
        """Refuse a second compressor, and heads that the server never sees."""
        super().check(desk)
        for way, plugin, setting in (
            ("down", desk.plan.codec, "down_bits"),
            ("up", desk.plan.uplink or desk.plan.codec, "bits"),
        ):
            codec: Codec = plugin.build("codec")
            if codec.lossy:
                raise ConfigError(
                    f"codec.{way}: {plugin.name} would compress what {self.name} compresses by "
                    f"itself; leave codec at masked, and set method.{setting}"
                )
        if self.distil_views and type(desk.objective).views is Objective.views:
            raise ConfigError(
                f"method.distil_views: objective {desk.plan.training.objective.name} draws no "
                "views; set it to false, or choose one that does, such as simclr"
            )
        if self.distil != "off" and desk.objective.local(desk.model):
            raise ConfigError(
                "training.objective.heads: local heads stay with their clients, and the server "
                "compares images by them; set it to shared, or method.distil to off"
            )

    def to_come(self, state: ServerState) -> bool:
        """Tell whether distillation is yet to begin, or a pruner to prune."""
        waits = self.distil != "off" and state.round_index < self.distil_from
        return waits or super().to_come(state)

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge bits of each parameter and a float32 a tensor, or float32, both ways."""
        tensors = len(desk.graph.parameters)
        return sum(
            4 * kept if bits == 32 else math.ceil(kept * bits / 8) + 4 * tensors
            for bits in (self.bits, self.down_bits)
        )

    def settle_each(self, desk: Desk, before: ServerState, updates: Updates) -> ServerState:
        """Average, then learn from each client's model what is alike."""
        after = super().settle_each(desk, before, updates)
        if self.distil == "off" or after.round_index < self.distil_from:
            return after
        threads = torch.get_num_threads()
        torch.set_num_threads(desk.plan.training.threads)
        try:
            return self._taught(desk, before, after, updates)
        finally:
            torch.set_num_threads(threads)

    def _taught(
        self, desk: Desk, before: ServerState, after: ServerState, updates: Updates
    ) -> ServerState:
        assert desk.public is not None
        pupil = Pupil(
            desk.model,
            desk.objective,
            desk.public,
            desk.task(desk.public),
            desk.device,
            desk.plan.training.eval_batch_size,
        )
        teachers, weights, alike = list[Tensor](), list[float](), list[str]()
        for update in updates:
            weight, model = self.contribution(desk, update)
            state.load_(desk.model, {**before.model, **_named(model, before.model)})
            found = pupil.embedded()
            if similarity.likeness(found) > similarity.COLLAPSED:
                alike.append(update.client)
                continue
            teachers.append(found)
            weights.append(weight)
        numbers = {"teachers": float(len(teachers)), "left_out": float(len(alike))}
        model = after.model
        if alike:
            log.warning(
                "round %d: the models of %s find all public images alike and teach nothing",
                after.round_index,
                ", ".join(alike),
            )
        if teachers:
            support = self.support(desk, after.mask, "slices") | dict(desk.existing)
            state.load_(desk.model, after.model)
            before_it = self._apart(pupil.embedded(), teachers, weights)
            pupil.taught(
                self._loss(teachers, weights),
                epochs=self.distil_epochs,
                rate=self.distil_rate,
                batch=self.distil_batch,
                seed=seeding.derive(desk.seed, after.round_index, DISTIL),
                support=support,
                views=self.distil_views,
            )
            numbers |= {
                "divergence_before": before_it,
                "divergence": self._apart(pupil.embedded(), teachers, weights),
            }
            learned = state.copy(desk.model.to("cpu").state_dict())
            model = {n: v if n in desk.local else learned[n] for n, v in after.model.items()}
        desk.model.to("cpu")
        memory = {n: v for n, v in after.memory.items() if not n.startswith(f"{DISTIL}/")}
        said = {name: torch.tensor([value]) for name, value in numbers.items()}
        return replace(after, model=model, memory=memory | state.as_section(said, DISTIL))

    def _loss(self, teachers: Sequence[Tensor], weights: Sequence[float]) -> similarity.Loss:
        whole = math.fsum(weights)

        def alike(vectors: Tensor, chosen: Tensor) -> Tensor:
            return self._divergence(vectors, chosen, teachers, weights)

        def same(vectors: Tensor, chosen: Tensor) -> Tensor:
            parts = [w / whole * z[chosen] for z, w in zip(teachers, weights, strict=True)]
            return functional.mse_loss(vectors, torch.stack(parts).sum(0).to(vectors.device))

        return alike if self.distil == "similarity" else same

    def _apart(
        self, vectors: Tensor, teachers: Sequence[Tensor], weights: Sequence[float]
    ) -> float:
        """Return the mean divergence over batches of the images in their order."""
        parts = similarity.batches(torch.arange(len(vectors)), self.distil_batch)
        found = [float(self._divergence(vectors[p], p, teachers, weights)) for p in parts]
        return fmean(found)

    def _divergence(
        self, vectors: Tensor, chosen: Tensor, teachers: Sequence[Tensor], weights: Sequence[float]
    ) -> Tensor:
        """Compare a batch's vectors with what the teachers find alike."""
        taught = similarity.agreed(teachers, weights, chosen, self.distil_teacher_temperature)
        log_shares = similarity.relations(vectors, self.distil_temperature)
        return similarity.divergence(taught.to(vectors.device), log_shares)

    def measured(self, before: ServerState, after: ServerState, desk: Desk) -> dict[str, float]:
        """Say how many taught, how many were left out, and how far from them the server was."""
        said = state.section(after.memory, DISTIL)
        numbers = {f"{DISTIL}_{name}": float(value) for name, value in said.items()}
        return {**super().measured(before, after, desk), **numbers}


def _codec(bits: int, *, feedback: bool) -> Plugin | None:
    """Name the codec of so many bits; None for what settings say."""
    if bits == 32:
        return None
    if bits == 1:
        return Plugin(name="signs", params={"feedback": feedback})
    return Plugin(name="rounded", params={"bits": bits, "feedback": feedback})


def _named(model: StateDict, like: StateDict) -> StateDict:
    """Leave out what a contribution holds beside the model's entries."""
    return {name: value for name, value in model.items() if name in like}
