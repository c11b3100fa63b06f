"""The size of a unit's weights: the classic score that looks at no data.

Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv 1608.08710 (L1).
Only the weight row counts; bias and BatchNorm's scale do not.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph, UnitLayer
from fedx_core.relevance import base

Norm = Literal["l1", "l2"]


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Weighing):
    """The norm of each unit's weight row, or of all rows of an attention head.

    Args:
        norm: ``l1`` sums absolute values, ``l2`` is the Euclidean norm.
    """

    needs_reference: ClassVar[bool] = False
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        base.check_choice("norm", self.norm, Norm)

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
        """Measure the weights; the reference set is not looked at."""
        return {
            layer.name: self._norm(model.get_parameter(layer.weight).detach(), layer)
            for layer in graph.layers
        }

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
        """Take each weight's size."""
        weights = (layer.weight for layer in graph.layers)
        return {n: model.get_parameter(n).detach().abs().cpu().float() for n in weights}

    def _norm(self, weight: Tensor, layer: UnitLayer) -> Tensor:
        rows = weight.cpu().double().flatten(1)
        if self.norm == "l1":
            return base.sum_rows(rows.abs().sum(1), layer).float()
        return base.sum_rows(rows.square().sum(1), layer).sqrt().float()
