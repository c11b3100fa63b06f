"""Scores that say nothing: independent draws from U(0, 1), the baseline of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base.seeding import derive, torch_generator
from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph
from fedx_core.relevance import base


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Weighing):
    """Uniform draws that depend on the seed and the layer's name alone."""

    needs_reference: ClassVar[bool] = False

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
        """Draw one number per unit; the model and the reference set are not looked at."""
        return {
            layer.name: _drawn(seed, layer.name, torch.Size([layer.units]))
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
        """Draw one number per weight."""
        return {
            layer.weight: _drawn(seed, layer.weight, model.get_parameter(layer.weight).shape)
            for layer in graph.layers
        }


def _drawn(seed: int, name: str, shape: torch.Size) -> Tensor:
    return torch.rand(shape, generator=torch_generator(derive(seed, "random", name)))
