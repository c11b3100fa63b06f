"""The interface of ``pruners/<name>.py``: when a mask is made, of what, and what it takes along.

Everything that prunes does it here, so that each event keeps what it saw and decided, the model is
scored before and after it, and a schedule may follow the rounds before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local, Turn
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, Scores
from fedx_core.pruning.structure import Mode
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import RoundReport, ServerState


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Prunes nothing; a pruner overrides what it does."""

    needs: ClassVar[str] = ""
    """The exchange that a pruner's masks are made of, such as ``votes``; empty for any."""
    says: ClassVar[Mapping[str, Domain]] = {}
    """What the numbers of :meth:`trained` may be, by name."""

    @property
    def prunes(self) -> bool:
        """Whether there will ever be a mask."""
        return type(self).choose is not Pruner.choose

    @property
    def heads(self) -> bool:
        """Whether attention heads are units instead of the rows of ``qkv``."""
        return False

    @property
    def keeps_dead_units_at_zero(self) -> bool:
        """Whether dead units stay zero in every local step, so that training may leave them out.

        Their entries are zero in what is sent then, and local training must neither need nor
        change them.
        """
        return True

    def check(self, desk: Desk) -> None:
        """Refuse a model that can't be pruned so, before a run begins; none by default.

        Raises:
            ConfigError: the message says why.
        """

    def start(self, state: ServerState) -> ServerState:
        """Prune the first weights; they stay whole by default."""
        return state

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Tell whether a mask is made after a round.

        Args:
            state: that the round's updates led to.
            history: reports of the rounds before it, the first one first, so that a schedule may
                follow what validation said.
        """
        return False

    def to_come(self, state: ServerState) -> bool:
        """Tell whether a later round prunes, by the state's round alone; see ``Method.to_come``."""
        return False

    def scores(self, desk: Desk, state: ServerState) -> Scores:
        """Score the units of a state whose mask is due.

        Returns:
            float (units,) by layer; nothing where the weights' own size decides, which the evidence
            holds anyhow.
        """
        return {}

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Choose what stays.

        Args:
            desk: of the server.
            state: see :meth:`due`.
            scores: see :meth:`scores`.

        Raises:
            NotImplementedError: a plug-in's :meth:`due` says yes, and it has no ``choose``.
        """
        raise NotImplementedError(f"{type(self).__module__} is due and chooses no mask")

    def pruned(self, desk: Desk, state: ServerState, mask: Mask) -> ServerState:
        """Take a mask over, and zero what it leaves out."""
        support = self.support(desk, mask, "slices")
        return replace(state, model=masks.apply(state.model, support), mask=mask)

    def group(self, turn: Turn) -> str:
        """Name the clients that share a client's mask; empty for those that share the server's."""
        return ""

    def mask_for(self, desk: Desk, state: ServerState, group: str) -> Mask | None:
        """Return a group's mask, which is put into the store once, whoever else has the same.

        Args:
            desk: of the server.
            state: that the round's clients are sent; its mask leaves alone whatever any group has.
            group: see :meth:`group`.
        """
        return state.mask

    def masked(self, desk: Desk) -> tuple[str, ...]:
        """Name what masks over parameters speak of: weights of convolutions and linear layers."""
        return weights({name: shape for name, (_, shape) in desk.entries.items()})

    def support(self, desk: Desk, mask: Mask | None, mode: Mode) -> dict[str, Tensor]:
        """Say which entries lose values under a mask."""
        return desk.graph.support(mask, mode)

    def trained(self, local: Local) -> dict[str, float]:
        """Mask what a client has learned, in place, and say numbers about it; neither here."""
        return {}

    def measured(self, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say in numbers of its own what a round did, such as how much of a mask changed."""
        return {}


def weights(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Name the weights of convolutions and linear layers, the classifier's too.

    Args:
        shapes: by entry of a state dict. Norms' weights have one dimension, and what a model adds
            to its input (tokens, positions) is no ``weight``.
    """
    return tuple(n for n, shape in shapes.items() if n.endswith(".weight") and len(shape) > 1)
