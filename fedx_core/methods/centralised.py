"""The upper bound: all clients' images in one place, trained as one client would.

It takes as many passes over the images as the federation does. It moves data instead of models, so
its ledgers stay at zero and are no measure of what centralising an archive costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedx_core.methods import base
from fedx_core.wire.messages import POOLED


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """One pretended client that owns every training image."""

    communicates: ClassVar[bool] = False

    def cohort(
        self, clients: Sequence[str], participation: float, round_index: int, seed: int
    ) -> tuple[str, ...]:
        """Ask the pool of all shards."""
        return (POOLED,)
