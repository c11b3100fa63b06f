"""The interface of ``exchanges/<name>.py``: what clients send of the models that they trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedx_core.base import state
from fedx_core.base.state import Payload, StateDict
from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local, Wire
from fedx_core.pruning.structure import Mode
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Schema, Update


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Sends the model, as the mask leaves it, both ways; an exchange overrides what differs."""

    dense: ClassVar[bool] = False
    """True where it can't send a model under a mask."""
    says: ClassVar[Mapping[str, Domain]] = {}
    """What the numbers that :meth:`packed` adds may be, by name."""

    def schema(self, desk: Desk, model: Schema, mode: Mode | None) -> Wire:
        """Say what payloads hold.

        Args:
            desk: of either side.
            model: the schema of a model under the round's mask.
            mode: of the codec; None for whole tensors.
        """
        return Wire(down=model, up=model)

    def packed(self, local: Local, update: Update) -> Update:
        """Turn an update that holds a whole model into what is sent, at the client."""
        return update

    def check(self, update: Update) -> None:
        """Refuse what no entry's domain can say.

        Raises:
            PayloadError: it can't be; the message says why.
        """

    def change(self, update: Update, change: Payload) -> Payload:
        """Leave out of an update's change what was not sent."""
        return change

    def contribution(self, update: Update) -> tuple[float, StateDict]:
        """Say what an update adds to the round's sum, and with what weight; see ``Method``."""
        return update.weight, state.section(update.payload, "model")

    def paper_bytes(self, kept: int) -> int:
        """Charge one client's downlink and uplink as papers do, of so many kept parameters."""
        return 4 * (kept + kept)
