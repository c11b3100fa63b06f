"""The bound below all others: a model that nobody trains.

The first weights are scored as any model is. Features of random convolutions tell many classes
apart, so a method of pre-training is judged by what it adds to them.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local, Total, Wire
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import Mode
from fedx_core.wire.messages import Schema, ServerState, Update


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Random weights, or those of ``model.weights``, round after round."""

    communicates: ClassVar[bool] = False
    own_exchange: ClassVar[str] = "nothing"
    pre_trains: ClassVar[bool] = True

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Hand out the first weights; send nothing back."""
        return Wire(down=super().schema(desk, mask, mode, variant).down, up=Schema(()))

    def train(self, local: Local) -> Update:
        """Do nothing, at no loss."""
        return local.update({}, 0.0)

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Count the round."""
        return ServerState(round_index=before.round_index + 1, model=before.model)
