"""Gradients collected while the image fades in: which units turned nothing into this answer.

The image grows from the baseline in equal steps. ``conductance`` multiplies a unit's gradient at
each step by how much its activation grew in it; what all units of a cut through the network get
adds up to what the answer gained. ``pathgrad`` averages the gradients alone.

Source: Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv 1703.01365;
Dhamdhere et al., How Important Is a Neuron?, ICLR 2019, arXiv 1805.12233 (conductance); the code of
Hatefi et al. 2024, arXiv 2408.12568 (``pathgrad``).
Differs from the paper: FedX does not say which of the two it used, nor its baseline and steps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedx_core.errors import ConfigError
from fedx_core.masks import Scores
from fedx_core.models.catalogue import Entry
from fedx_core.relevance import base
from fedx_core.structure import UnitGraph

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
        entry: Entry,
        reference: base.Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Walk the path for every image; nothing is drawn."""
        reference = base.required(reference)
        twin = base.copy_to_explain(model)
        with base.recording(twin, graph) as recorded:

            def explain(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                integrals = self._integrate(twin, graph, recorded, images, targets)
                return {
                    layer.name: base.by_unit(integral, layer, self.aggregation)
                    for layer, integral in zip(graph.layers, integrals, strict=True)
                }

            return base.mean_over_samples(twin, graph, reference, batch_size, explain)

    def _integrate(
        self,
        model: nn.Module,
        graph: UnitGraph,
        recorded: dict[str, Tensor],
        images: Tensor,
        targets: Tensor,
    ) -> list[Tensor]:
        """Sum over the path, one tensor a layer, of its activation's shape."""
        with torch.no_grad():
            model(torch.zeros_like(images))
        before = [recorded[layer.name] for layer in graph.layers]
        integrals = [torch.zeros_like(activation) for activation in before]
        for step in range(1, self.steps + 1):
            logits = model((images * (step / self.steps)).requires_grad_())
            answer = (logits * base.positives(logits, targets)).sum()
            now = [recorded[layer.name] for layer in graph.layers]
            gradients = torch.autograd.grad(answer, now)
            for index, gradient in enumerate(gradients):
                activation = now[index].detach()
                if self.mode == "conductance":
                    integrals[index] += gradient * (activation - before[index])
                else:
                    integrals[index] += gradient / self.steps
                before[index] = activation
        return integrals
