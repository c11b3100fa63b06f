"""Units that others can't stand in for: one after another, by what those before leave unexplained.

A unit's profile is what it contributed to each reference image. Of two units with one profile a
model needs one; a score for each unit by itself keeps both. Here the unit with the largest profile
comes first, what it explains of the others' profiles is taken off them, and so on:

    r_u = ||p_u - its projection on the profiles of the units before||      p_u (images,)

That is the greedy choice of a determinantal point process whose kernel is the profiles' Gram
matrix, and a Cholesky factorisation with pivots.

Source: Mariet, Sra, Diversity Networks, ICLR 2016, arXiv 1511.05077 (units by such a process, over
activations); Chen, Zhang, Zhou, Fast Greedy MAP Inference for Determinantal Point Process, NeurIPS
2018, arXiv 1709.05135.
Differs from the papers: profiles of relevance, one value an image; a ridge, so that units which
images are too few to tell apart follow by the size of their profiles.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedx_core.base import limits
from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph
from fedx_core.relevance import base, lrp, taylor

Profile = Literal["lrp", "taylor", "activation"]
Explain = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
_LRP = lrp.Criterion(aggregation="signed")


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Criterion):
    """What is left of each unit's profile when its turn comes, the mean square over images, rooted.

    Args:
        of: what a profile consists of. ``lrp``: signed relevance. ``taylor``: activation times the
            gradient of the loss. ``activation``: the mean over positions, less its mean over
            images; labels are not looked at.
        ridge: how much a unit has to itself, as a share of its profile's square, above 0; the more,
            the less is taken off.
    """

    of: Profile = "lrp"
    ridge: float = 0.001

    def __post_init__(self) -> None:
        base.check_choice("of", self.of, Profile)
        limits.positive(ridge=self.ridge)

    def score(
        self,
        model: nn.Module,
        graph: UnitGraph,
        architecture: Architecture,
        reference: base.Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Choose the units of each layer one after another; nothing is drawn."""
        reference = base.required(reference)
        at_once = _LRP.at_once(architecture, batch_size) if self.of == "lrp" else batch_size
        parts: dict[str, list[Tensor]] = {layer.name: [] for layer in graph.layers}
        with self._explaining(model, graph, architecture) as explain, torch.enable_grad():
            for images, targets in reference.batches(at_once, model):
                for name, values in explain(images, targets).items():
                    parts[name].append(values.detach().cpu().double())
        profiles = {name: torch.cat(values) for name, values in parts.items()}
        if self.of == "activation":
            profiles = {name: values - values.mean(0) for name, values in profiles.items()}
        return {name: left(values, self.ridge).float() for name, values in profiles.items()}

    @contextmanager
    def _explaining(
        self, model: nn.Module, graph: UnitGraph, architecture: Architecture
    ) -> Iterator[Explain]:
        """Prepare what gives each image's values of all units, (n, units) by layer."""
        if self.of == "lrp":
            with _LRP.explaining(model, graph, architecture) as explain:
                yield explain
            return
        twin = base.copy_to_explain(model)
        with base.recording(twin, graph) as recorded:

            def explain(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                if self.of == "taylor":
                    return taylor.changes(twin, graph, recorded, images, targets)
                twin(images)
                return {
                    layer.name: base.by_unit(recorded[layer.name], layer, "signed")
                    / base.positions(recorded[layer.name], layer)
                    for layer in graph.layers
                }

            yield explain


def left(profiles: Tensor, ridge: float) -> Tensor:
    """Return what is left of each profile when its turn comes.

    Args:
        profiles: float64 (images, units).
        ridge: see :class:`Criterion`.

    Returns:
        float64 (units,); the first unit's is the size of its profile, and none is larger.
    """
    images, units = profiles.shape
    rest = profiles.square().mean(0) * (1 + ridge)
    waiting = torch.ones(units, dtype=torch.bool)
    scores = torch.zeros_like(rest)
    # More than the images can tell apart are not taken off each other: only the ridge is left.
    factor = profiles.new_zeros(units, min(units, images))
    for step in range(factor.shape[1]):
        chosen = int(torch.where(waiting, rest, -1.0).argmax())
        most = float(rest[chosen])
        if most <= 0:
            break
        scores[chosen], waiting[chosen] = most, False
        column = profiles.T @ profiles[:, chosen] / images
        column[chosen] *= 1 + ridge
        column -= factor[:, :step] @ factor[chosen, :step]
        factor[:, step] = column / most**0.5
        rest = rest - factor[:, step].square()
    return torch.where(waiting, rest.clamp_min(0), scores).sqrt()
