"""What a method's round and its clients say to each other: questions, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedx_core.wire.messages import ServerState, Update


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a round asks next.

    Args:
        ask: a file of ``fedx_core/asks``; one question of a round asks to ``train``.
        clients: who is asked, in the order of sums; empty for the round's cohort.
        before: state that they are sent, if it is another one than the round began with. A function
            of that one and of the answers so far, so that a resumed server finds the same.
    """

    ask: str = "train"
    clients: tuple[str, ...] = ()
    before: ServerState | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What has come of a question, once it is closed.

    Args:
        updates: by client that counts, in the order in which they were asked; of questions that ask
            for no update of the model. Payload, examples and numbers are as the client said.
        state: what a round's updates have led to, settled and found sound; of ``train`` alone.
    """

    updates: Mapping[str, Update] = field(default_factory=dict)
    state: ServerState | None = None

    @property
    def settled(self) -> ServerState:
        """The state of a question that asked to train."""
        assert self.state is not None
        return self.state
