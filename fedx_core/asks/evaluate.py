"""Score the model, or the client's own, on its test part; numbers come back, and no tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedx_core.asks import base
from fedx_core.asks.base import Answer, Asked
from fedx_core.images.examples import LabelKind
from fedx_core.learning import evaluation
from fedx_core.methods.base import Method
from fedx_core.wire.domains import Domain


@dataclass(frozen=True, kw_only=True)
class Ask(base.Ask):
    """A client without test images answers with no number."""

    part: ClassVar[Literal["train", "test"]] = "test"
    may_be_empty: ClassVar[bool] = True
    verb: ClassVar[str] = "score a model"

    def says(self, method: Method, label_kind: LabelKind) -> Mapping[str, Domain]:
        """Name the scores of this kind of labels."""
        return evaluation.SCORES[label_kind]

    def do(self, asked: Asked) -> Answer:
        """Load what the method scores, and score it."""
        method, local = asked.there
        found: dict[str, float] = {}
        if len(local.examples):
            method.evaluated(local)
            # Where features are judged, a client's own training images are those that are known.
            known = None if local.desk.objective.answers else asked.shard("train")
            logits = local.desk.predict(local.model, local.examples, known=known)
            found = evaluation.metrics(logits, local.examples.labels, asked.plan.label_kind)
        return Answer(examples=len(local.examples), metrics=found)
