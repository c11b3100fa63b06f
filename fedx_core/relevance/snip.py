"""How much the loss would feel a unit being turned down: connection sensitivity, unit by unit.

SNIP puts a gate of 1 on every connection and takes the derivative of the loss by the gate, which is
weight times gradient. A gate on a unit is on all of its connections at once.

Source: N. Lee, T. Ajanthan, P. Torr, SNIP: Single-Shot Network Pruning Based on Connection
Sensitivity, ICLR 2019, https://arxiv.org/abs/1810.02340, equations 3 to 5.
Differs from the paper: whole units instead of single connections; on the reference set where the
method prunes, not on one batch before training; scores are not divided by their sum, which changes
no order. A unit's bias and BatchNorm have no gate. Within a layer, ``gate`` orders units as
``taylor`` with ``variant: weight`` does, which is its square.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph, UnitLayer
from fedx_core.relevance import base
from fedx_core.relevance.taylor import weight_times_gradient

Saliency = Literal["gate", "connections"]


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Weighing):
    """Sensitivity of the loss on the reference labels to a gate on each unit.

    Args:
        saliency: ``gate``: absolute value of the sum of weight times gradient over the unit's rows,
            the derivative by one gate on all of them. ``connections``: the sum of the absolute
            values, the sensitivities of single connections added up.
    """

    saliency: Saliency = "gate"

    def __post_init__(self) -> None:
        base.check_choice("saliency", self.saliency, Saliency)

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
        """Differentiate the mean loss by the gates; nothing is drawn."""
        products = _products(model, graph, reference, batch_size)
        return {layer.name: self._by_unit(products[layer.name], layer) for layer in graph.layers}

    def weigh(
        self,
        model: nn.Module,
        graph: UnitGraph,
        architecture: Architecture,
        reference: base.Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Differentiate the mean loss by a gate on each weight (eq. 3 to 5)."""
        products = _products(model, graph, reference, batch_size)
        return {layer.weight: products[layer.name].abs().float() for layer in graph.layers}

    def _by_unit(self, products: Tensor, layer: UnitLayer) -> Tensor:
        if self.saliency == "connections":
            products = products.abs()
        return base.sum_rows(products.flatten(1).sum(1), layer).abs().float()


def _products(
    model: nn.Module, graph: UnitGraph, reference: base.Reference | None, batch_size: int
) -> dict[str, Tensor]:
    twin = base.copy_to_explain(model)
    return weight_times_gradient(twin, graph, base.required(reference), batch_size)
