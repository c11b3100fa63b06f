"""What every stage works with, at either side: one model, and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fedx_core.base import state
from fedx_core.base.errors import ReferenceSetError
from fedx_core.base.state import StateDict
from fedx_core.codec.base import Codec
from fedx_core.desk.plan import Plan
from fedx_core.images import strata
from fedx_core.images.examples import Examples
from fedx_core.learning import evaluation, neighbours
from fedx_core.learning.training import SUPERVISED, LocalRule, fit, least_batch, pick_device
from fedx_core.models import catalogue
from fedx_core.models.base import Architecture
from fedx_core.objectives.base import Objective, Task
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.shrink.model import shrink
from fedx_core.pruning.shrink.values import cut
from fedx_core.pruning.structure import Cut, UnitGraph
from fedx_core.relevance.base import Reference


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A plan, the model that it names, and the tools to train and score it.

    Args:
        plan: that the federation follows.
        entry: the model's architecture.
        model: to work on; its weights mean nothing until they are loaded.
        graph: the model's units.
        down: the codec of what clients are sent.
        up: of what they send.
        reference: the server's labelled images; None at a client.
        objective: what training minimises.
        first: values of entries that do not travel, as they are built; a desk looks itself.
        public: unlabelled images that server steps may learn from; None where there are none.
        seed: root of what the server draws; a client's job has one of its own.
        existing: the weights that exist (:mod:`fedx_core.supports`): bool by name, True = kept;
            nothing where all do.
        measures: the server measures BatchNorm's statistics before each use, so that they need not
            travel.
    """

    plan: Plan
    entry: Architecture
    model: nn.Module
    graph: UnitGraph
    down: Codec
    up: Codec
    objective: Objective = SUPERVISED
    first: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Examples | None = None
    public: Examples | None = None
    seed: int = 0
    existing: Mapping[str, Tensor] = field(default_factory=dict)
    measures: bool = False
    _small: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.first:
            values = self.model.state_dict()
            own = state.copy({name: values[name] for name in sorted(self.staying)})
            object.__setattr__(self, "first", own)

    @property
    def classes(self) -> int:
        """How many the model tells apart."""
        return self.plan.classes

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return pick_device(self.plan.training.device)

    @cached_property
    def entries(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """The model's entries: (dtype, shape) by name, in the state dict's order."""
        return {n: (str(v.dtype), tuple(v.shape)) for n, v in self.model.state_dict().items()}

    @cached_property
    def heads(self) -> frozenset[str]:
        """Entries that are no encoder's: the classifier's, or those of the objective's heads."""
        with torch.device("meta"):
            whole = catalogue.build(self.plan.model, self.plan.bands, self.plan.classes, 0)
        classifier = f"{self.entry.classifier}."
        encoder = {name for name in whole.state_dict() if not name.startswith(classifier)}
        return frozenset(self.entries) - encoder

    @cached_property
    def local(self) -> frozenset[str]:
        """Entries that stay with the clients.

        BatchNorm's buffers under ``batch_norm: local``, and heads that the objective keeps there.
        """
        heads = self.objective.local(self.model)
        if self.plan.training.batch_norm != "local":
            return heads
        return heads | self._buffers

    @cached_property
    def staying(self) -> frozenset[str]:
        """Entries that do not travel: local ones, and those that the server measures."""
        return self.local | self._buffers if self.measures else self.local

    @property
    def _buffers(self) -> frozenset[str]:
        return frozenset(name for name in self.entries if name not in self.graph.parameters)

    @property
    def least_batch(self) -> int:
        """Images that a batch needs."""
        return least_batch(self.model, self.objective)

    def shared(self, model: Mapping[str, Tensor]) -> StateDict:
        """Return the entries of a state dict that travel."""
        return {name: value for name, value in model.items() if name not in self.staying}

    def fit(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        seed: int,
        rule: LocalRule | None = None,
        moments: StateDict | None = None,
        round_index: int = 1,
        beside: StateDict | None = None,
    ) -> float:
        """Train a model in place as the plan says; see :func:`fedx_core.learning.training.fit`."""
        return fit(
            model,
            examples,
            label_kind=self.plan.label_kind,
            pixels=self.plan.pixels,
            settings=self.plan.training,
            seed=seed,
            rule=rule,
            moments=moments,
            round_index=round_index,
            objective=self.objective,
            beside=beside,
        )

    def task(self, examples: Examples) -> Task:
        """Say what the objective is to learn from some images, and how."""
        return Task(
            label_kind=self.plan.label_kind,
            labels=examples.labels,
            pixels=self.plan.pixels,
            settings=self.plan.training,
        )

    def predict(
        self,
        model: nn.Module,
        examples: Examples,
        workers: int = 1,
        known: Examples | None = None,
    ) -> Tensor:
        """Return a model's logits, float32 (n, classes) on the CPU; or tallies of pixels.

        Args:
            model: moved to ``device``.
            examples: in their order; labels are looked at where pixels have them.
            workers: threads; they change no result.
            known: images with labels whose nearest neighbours answer where the model does not;
                None for the reference set.
        """
        found = self.outputs(model, examples, workers)
        if self.objective.answers:
            return found
        known = known or self.reference
        if known is None:
            raise ReferenceSetError("features are judged by images with labels, and none are given")
        shares = neighbours.votes(
            self.outputs(model, known, workers), known.labels, found, self.classes
        )
        return neighbours.logits(shares, single=self.plan.label_kind == "single")

    def outputs(self, model: nn.Module, examples: Examples, workers: int = 1) -> Tensor:
        """Return what a model makes of images, float32 (n, classes or features) on the CPU.

        Where pixels have labels, see :func:`fedx_core.learning.pixel_scores.tally`.
        """
        return evaluation.predict(
            model,
            examples,
            pixels=self.plan.pixels,
            batch_size=self.plan.training.eval_batch_size,
            device=self.device,
            workers=workers,
            tallied=self.plan.label_kind == "pixels",
        )

    def reference_set(self) -> Reference:
        """Return the reference set as the model's inputs and targets.

        Raises:
            ReferenceSetError: this desk is not the server's.
        """
        if self.reference is None:
            raise ReferenceSetError("only the server has a reference set, and this is a client")
        labels = strata.borne(np.array(self.reference.labels), self.classes)
        targets = torch.from_numpy(labels)
        return Reference(
            self.plan.pixels.to_input(self.reference.images, torch.device("cpu")),
            targets.long() if self.plan.label_kind == "single" else targets,
        )

    def cuts(self, mask: Mask | None) -> Mapping[str, Cut]:
        """Say what the model that clients train lacks under a mask; nothing if it is dense."""
        if mask is None or mask.kind != "units" or not self.plan.training.shrink:
            return {}
        return self.graph.cuts(mask, "slices")

    def model_for(self, mask: Mask | None) -> nn.Module:
        """Return the model that clients train under a mask, built once for each."""
        if mask is None or not self.cuts(mask):
            return self.model
        key = mask.digest()
        if key not in self._small:
            self._small.clear()  # masks change rarely and do not come back
            self._small[key] = shrink(self.model, self.graph, mask, self.entry)
        return self._small[key]

    def loaded(self, values: Mapping[str, Tensor], mask: Mask | None) -> nn.Module:
        """Return the same model with the values of a dense state whose dead entries are zero."""
        model = self.model_for(mask)
        state.load_(model, cut(values, self.cuts(mask)))
        return model
