"""The interface of ``asks/<name>.py``: a question to clients, both halves in one file.

A job names its question. The client does it with what the job sends; the server knows from the same
file what comes back, and believes nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fedx_core.base.state import Payload, StateDict
from fedx_core.desk.local import Local
from fedx_core.desk.plan import Plan
from fedx_core.images.examples import Description, Examples
from fedx_core.images.label_values import LabelKind
from fedx_core.methods.base import Method
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Schema, Update


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question at a client.

    Args:
        plan: that the federation follows.
        shard: opens a part of the client's images, ``train`` or ``test``.
        method: of the plan; None where no model is sent.
        local: the desk with the model's downlink and the part of the question; None likewise.
    """

    plan: Plan
    shard: Callable[[str], Examples]
    method: Method | None = None
    local: Local | None = None

    @property
    def there(self) -> tuple[Method, Local]:
        """The method and the desk, of a question that sends the model."""
        assert self.method is not None
        assert self.local is not None
        return self.method, self.local


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client has found.

    Args:
        examples: images that it is of.
        payload: tensors of the question's schema.
        metrics: numbers by name.
        memory: what the client keeps for itself; of updates alone.
    """

    examples: int
    payload: Payload = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory: StateDict | None = None


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question; a file overrides what its own is."""

    part: ClassVar[Literal["train", "test"]] = "train"
    """Of the client's images."""
    sends_model: ClassVar[bool] = True
    """Whether the client is sent what the method sends."""
    updates: ClassVar[bool] = False
    """Whether the answer is the method's update: through its codec, into the round's sum."""
    may_be_empty: ClassVar[bool] = False
    """Whether a client without images of the part answers all the same, with nothing."""
    verb: ClassVar[str]
    """What is asked for, to people: "train", "score a model"."""

    def schema(self, plan: Plan) -> Schema:
        """Say what the payload holds, each entry with its domain; nothing by default.

        Both sides derive it from the plan. Values travel in float32 or as they are, uncoded.
        """
        return Schema(())

    def says(self, method: Method, label_kind: LabelKind) -> Mapping[str, Domain]:
        """Say what the numbers of the answer may be, by name; any other number is refused."""
        return {}

    def check(self, answer: Update, description: Description) -> None:
        """Refuse what an answer's values can't be together, each lying in its domain.

        Args:
            answer: of a question that asks for no update of the model.
            description: of the data set.

        Raises:
            DomainError: they can't.
        """

    def do(self, asked: Asked) -> Answer:
        """Answer it, at the client.

        Raises:
            FedXError: it can't be; the client counts as lost.
        """
        raise NotImplementedError
