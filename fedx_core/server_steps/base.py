"""The interface of ``server_steps/<name>.py``: the step that the server takes."""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.base import state
from fedx_core.desk.desk import Desk
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class ServerStep:
    """Takes the mean as it is; a step overrides :meth:`step`."""

    needs_public: ClassVar[bool] = False
    """True where it looks at ``desk.public``; refused where there is none."""

    def step(self, desk: Desk, before: ServerState, averaged: ServerState) -> ServerState:
        """Go on from what clients were sent, towards the mean of what they learned.

        Args:
            desk: of the server, with its device, its seed and its public images.
            before: state that the round's clients were sent.
            averaged: the same with the mean in place of its model, one round later.

        Returns:
            ``averaged`` with another model; what must last goes into its memory, under names with a
            slash, beside what is there.
        """
        return averaged

    def measured(self, desk: Desk, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say in numbers of its own what a round did."""
        return {}


def step_size(desk: Desk, before: ServerState, after: ServerState) -> float:
    """Return the Euclidean norm of the change of all parameters."""
    # A set's order is another in each process, and with it the sum's last digit.
    names = [name for name in after.model if name in desk.graph.parameters]
    return state.norm({name: after.model[name] - before.model[name] for name in names})
