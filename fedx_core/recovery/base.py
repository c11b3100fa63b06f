"""What a recovery is: a step at the server, between pruning and what clients are sent next.

It sees the model before the event and after it, and its own images. Clients only ever see the
state that it leaves, so no byte is spent on it, and any method that prunes can have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedx_core.desk.desk import Desk
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Leaves the pruned model as it is; a recovery overrides :meth:`recovered`."""

    def check(self, desk: Desk) -> None:
        """Refuse a model or an objective that can't be recovered so, before a run begins.

        Raises:
            ConfigError: the message says why.
        """

    def recovered(
        self,
        desk: Desk,
        before: ServerState,
        after: ServerState,
        support: Mapping[str, Tensor],
    ) -> ServerState:
        """Return the pruned state with better values in what it kept.

        Args:
            desk: of the server, with its reference set.
            before: state before the event.
            after: the same with its mask, and zeros where that says so.
            support: what the mask keeps, bool by entry that loses values; what is not kept must
                still be zero in what is returned.
        """
        return after
