"""Gradients collected while the image fades in: which units turned nothing into this answer.

The image grows from the baseline in equal steps. ``conductance`` multiplies a unit's gradient at
each step by how much its activation grew in it; what all units of a cut through the network get
adds up to what the answer gained. ``pathgrad`` averages the gradients alone.

Source: Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv 1703.01365;
Dhamdhere et al., How Important Is a Neuron?, ICLR 2019, arXiv 1805.12233 (conductance); the code of
Hatefi et al. 2024, arXiv 2408.12568 (``pathgrad``).
Differs from the paper: FedX does not say which of the two it used, nor its baseline and steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedx_core.base.errors import ConfigError
from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph, UnitLayer
from fedx_core.relevance import base
from fedx_core.relevance._probes import probing
from fedx_core.relevance._streamline import streamline

Mode = Literal["conductance", "pathgrad"]


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Criterion):
    """Integrated gradients of the labels' summed logits, at the units.

    The baseline is zero in normalised space, which is the mean image.

    Args:
        mode: what is summed over the path, see above.
        steps: points on the path, the image itself being the last; 1 or more. Time and precision
            grow with it.
        aggregation: see :data:`fedx_core.relevance.base.Aggregation`.
    """

    mode: Mode = "conductance"
    steps: int = 20
    aggregation: base.Aggregation = "abs_of_spatial_sum"

    def __post_init__(self) -> None:
        base.check_choice("mode", self.mode, Mode)
        base.check_choice("aggregation", self.aggregation, base.Aggregation)
        if self.steps < 1:
            raise ConfigError(f"steps must be 1 or more, got {self.steps}")

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
        """Walk the path for every image; nothing is drawn."""
        reference = base.required(reference)
        twin = base.copy_to_explain(model)
        streamline(twin, graph)
        architecture.quicken(twin, graph, rounding=True)
        walk = _Walk(twin, graph, self)
        with probing(twin, graph, walk.reduce, copied=architecture.adds_in_place) as probes:

            def explain(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                integrals = walk.integrate(probes, images, targets)
                return {
                    layer.name: base.sum_magnitudes(integral, layer, self.aggregation)
                    for layer, integral in zip(graph.layers, integrals, strict=True)
                }

            return base.mean_over_samples(twin, graph, reference, batch_size, explain)


class _Walk:
    """The path of one batch.

    Gradients are multiplied and summed where they arise, by probes; so each step holds the
    activations of two points, and no map of gradients. That splits a step between ``reduce`` and
    ``integrate``; the tests keep the loop that records everything first.
    """

    def __init__(self, model: nn.Module, graph: UnitGraph, criterion: Criterion) -> None:
        self.model, self.graph, self.criterion = model, graph, criterion
        self.before: dict[str, Tensor] = {}

    def reduce(self, layer: UnitLayer, activation: Tensor, gradient: Tensor) -> Tensor:
        """Weigh a gradient by how much its activation grew in this step."""
        if self.criterion.mode == "conductance" and not gradient.is_meta:
            gradient = (activation - self.before[layer.name]).mul_(gradient)
            self.before[layer.name] = activation
        return base.sum_signed(gradient, layer, self.criterion.aggregation)

    def integrate(
        self, probes: Mapping[str, Tensor], images: Tensor, targets: Tensor
    ) -> list[Tensor]:
        """Sum over the path, one tensor per layer, as :func:`base.sum_signed` leaves it."""
        steps = self.criterion.steps
        # One image stands for all: the baseline is the same for each.
        with torch.no_grad(), base.recording(self.model, self.graph) as self.before:
            self.model(torch.zeros_like(images[:1]))
        total: list[Tensor] = []
        for step in range(1, steps + 1):
            logits = self.model(images * (step / steps))
            answer = (logits * base.positives(logits, targets)).sum()
            here = torch.autograd.grad(answer, [probes[layer.name] for layer in self.graph.layers])
            total = total or [torch.zeros_like(part) for part in here]
            for whole, part in zip(total, here, strict=True):
                whole += part
        if self.criterion.mode == "pathgrad":
            return [value / steps for value in total]
        return total
