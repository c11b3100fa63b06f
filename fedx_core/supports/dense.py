"""All weights exist."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedx_core.pruning.sparsity import Shape


@dataclass(frozen=True)
class Support:
    """No weight is left out."""

    def choose(self, shapes: Mapping[str, Shape], others: int, seed: int) -> Mapping[str, Tensor]:
        """Choose nothing, so that all are kept."""
        return {}
