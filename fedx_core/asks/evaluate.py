"""Score the model, or the client's own, on its test part; numbers come back.

Where pixels have labels, counts come back instead, class by class. They add up over clients, and
every score of pixels but the loss follows from their sum. A mean of the clients' scores is another
number: a class that one client hardly has would weigh there as much as where it abounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedx_core.asks import base
from fedx_core.asks.base import Answer, Asked
from fedx_core.base.errors import DomainError
from fedx_core.base.state import Payload
from fedx_core.desk.plan import Plan
from fedx_core.images.examples import Description
from fedx_core.images.label_values import LabelKind
from fedx_core.learning import evaluation, pixel_scores
from fedx_core.methods.base import Method
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import Entry, Schema, Update

COUNTS = "pixels/confusion"
"""Pixels of the test part by their class and the class that was said."""


@dataclass(frozen=True, kw_only=True)
class Ask(base.Ask):
    """A client without test images answers with no number."""

    part: ClassVar[Literal["train", "test"]] = "test"
    may_be_empty: ClassVar[bool] = True
    verb: ClassVar[str] = "score a model"

    def schema(self, plan: Plan) -> Schema:
        """Send counts of pixels, eight bytes for each pair of classes; else nothing."""
        if plan.label_kind != "pixels":
            return Schema(())
        shape = (plan.classes, plan.classes)
        return Schema((Entry(COUNTS, "torch.int64", shape, domain=domains.COUNT),))

    def says(self, method: Method, label_kind: LabelKind) -> Mapping[str, Domain]:
        """Name the scores of this kind of labels; of pixels, what does not follow from counts."""
        return evaluation.SCORES[label_kind]

    def check(self, answer: Update, description: Description) -> None:
        """Refuse more pixels than the images have, and a loss of none."""
        if COUNTS not in answer.payload:
            return
        pixels = float(answer.payload[COUNTS].double().sum())  # int64 could overflow
        most = answer.examples * description.image_size**2
        if pixels > most:
            raise DomainError(
                f"{COUNTS!r} of {answer.client} counts {pixels:,.0f} pixels, and its "
                f"{answer.examples} images have {most:,}"
            )
        if not pixels and answer.metrics:
            raise DomainError(f"{answer.client} reports a loss, and {COUNTS!r} counts no pixel")

    def do(self, asked: Asked) -> Answer:
        """Load what the method scores, and score it."""
        method, local = asked.there
        kind, classes = asked.plan.label_kind, asked.plan.classes
        found: dict[str, float] = {}
        counts = torch.zeros(classes, classes, dtype=torch.int64)
        if len(local.examples):
            method.evaluated(local)
            # Where features are judged, a client's own training images are those that are known.
            known = None if local.desk.objective.answers else asked.shard("train")
            logits = local.desk.predict(local.model, local.examples, known=known)
            found = evaluation.metrics(logits, local.examples.labels, kind)
            if kind == "pixels":
                counts = pixel_scores.confusion(logits)
        payload: Payload = {COUNTS: counts} if kind == "pixels" else {}
        said = {name: found[name] for name in evaluation.SCORES[kind] if name in found}
        return Answer(examples=len(local.examples), payload=payload, metrics=said)


def scores_of(answer: Update) -> dict[str, float]:
    """Say what one client's test part scores, whose values were checked, and its ``examples``."""
    counted = _shares(answer.payload[COUNTS]) if COUNTS in answer.payload else {}
    return {"examples": float(answer.examples), **counted, **answer.metrics}


def together(answers: Sequence[Update]) -> dict[str, float]:
    """Score all clients' test parts together, each by its own client's model.

    Scores of pixels are those of all their pixels. All others are means, weighted by images: that
    is the score of all images for accuracy and loss, and not for macro averages.
    """
    if (counts := counted(answers)) is None:
        return _mean([(a.examples, a.metrics) for a in answers])
    by_pixels = [(int(a.payload[COUNTS].sum()), a.metrics) for a in answers]
    return {**_shares(counts), **_mean(by_pixels)}


def counted(answers: Sequence[Update]) -> Tensor | None:
    """Add up the clients' counts of pixels; None where there are none."""
    found = [answer.payload[COUNTS] for answer in answers if COUNTS in answer.payload]
    return sum(found[1:], start=found[0]) if found else None


def _shares(counts: Tensor) -> dict[str, float]:
    return {n: score for n, score in pixel_scores.shares(counts).items() if score is not None}


def _mean(said: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    # A client that leaves a score out has no say in it.
    names = dict.fromkeys(name for _, values in said for name in values)
    return {
        name: math.fsum(values[name] * weight for weight, values in said if name in values)
        / sum(weight for weight, values in said if name in values)
        for name in names
    }
