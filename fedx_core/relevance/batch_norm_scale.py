"""The size of BatchNorm's scale behind a unit: how much of the unit the network lets through.

Source: Z. Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV
2017, https://arxiv.org/abs/1708.06519, section 3.
Differs from the paper: clients train without its L1 penalty on the scales, which would press them
towards zero; layers are compared with themselves unless the method's ``scope`` is global.
Only models with a BatchNorm behind every unit can be scored: ResNets.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedx_core.base.errors import ConfigError
from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph, UnitLayer
from fedx_core.relevance import base


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Criterion):
    """The absolute value of BatchNorm's scale of each unit."""

    needs_reference: ClassVar[bool] = False

    def check(self, graph: UnitGraph) -> None:
        """Look for the scale of every layer.

        Raises:
            ConfigError: a layer has no BatchNorm.
        """
        for layer in graph.layers:
            if not _is_normalised(layer):
                raise ConfigError(
                    f"batch_norm_scale needs BatchNorm behind every layer, and {layer.name} has "
                    "none; take a ResNet, or another criterion such as magnitude"
                )

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
        """Read the scales; the reference set is not looked at."""
        self.check(graph)
        scales = {
            layer.name: model.get_parameter(f"{layer.measured_at}.weight") for layer in graph.layers
        }
        return {name: scale.detach().cpu().abs().float() for name, scale in scales.items()}


def _is_normalised(layer: UnitLayer) -> bool:
    return f"{layer.measured_at}.running_var" in layer.scalars
