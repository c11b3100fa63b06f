"""Scores that say nothing: independent draws from U(0, 1), the baseline of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fedx_core.masks import Scores
from fedx_core.models.catalogue import Entry
from fedx_core.relevance import base
from fedx_core.seeding import derive, torch_generator
from fedx_core.structure import UnitGraph


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Criterion):
    """Uniform draws that depend on the seed and the layer's name alone."""

    needs_reference: ClassVar[bool] = False

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
        """Draw one number a unit; the model and the reference set are not looked at."""
        return {
            layer.name: torch.rand(
                layer.units, generator=torch_generator(derive(seed, "random", layer.name))
            )
            for layer in graph.layers
        }
