"""The lower bound: each client trains its own model on its own images, and nothing is exchanged.

All start from the same weights. Scores are means over the clients' models on their own test parts,
weighted by test images, or those of all their pixels together; so they are not comparable to a
global model's where clients differ.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.base import state
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Local, Total, Wire
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import Mode
from fedx_core.wire.messages import Schema, ServerState, Update


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Training without a federation; each client's model is its memory."""

    personal: ClassVar[bool] = True
    communicates: ClassVar[bool] = False
    own_exchange: ClassVar[str] = "nothing"

    def schema(self, desk: Desk, mask: Mask | None, mode: Mode | None, variant: str = "") -> Wire:
        """Hand out the first weights; send nothing back."""
        return Wire(down=super().schema(desk, mask, mode, variant).down, up=Schema(()))

    def train(self, local: Local) -> Update:
        """Go on with the client's own model."""
        self.evaluated(local)
        loss = self.fitted(local, None)
        return local.update({}, loss, state.copy(local.model.state_dict()))

    def settle(self, desk: Desk, before: ServerState, total: Total) -> ServerState:
        """Count the round; the server's model stays where it began."""
        return ServerState(round_index=before.round_index + 1, model=before.model)

    def evaluated(self, local: Local) -> None:
        """Load the client's own model, or the common start."""
        if local.memory:
            local.model.load_state_dict(local.memory)
        else:
            base.load(local)
