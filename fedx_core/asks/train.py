"""Train on the training part, and send the update: FedAvg's one question."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedx_core.asks import base
from fedx_core.asks.base import Answer, Asked
from fedx_core.images.label_values import LabelKind
from fedx_core.methods.base import Method
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain

NOISE = "noise"
"""Name of the number that clients with a lossy uplink report: its error beside their change."""


@dataclass(frozen=True, kw_only=True)
class Ask(base.Ask):
    """What leaves the client is the method's to say; see ``Method.schema``."""

    updates: ClassVar[bool] = True
    verb: ClassVar[str] = "train"

    def says(self, method: Method, label_kind: LabelKind) -> Mapping[str, Domain]:
        """Ask the method; and a codec's noise."""
        return {**method.says, NOISE: domains.RATIO}

    def do(self, asked: Asked) -> Answer:
        """Train as the method does."""
        method, local = asked.there
        update = method.train(local)
        return Answer(
            examples=update.examples,
            payload=update.payload,
            metrics=update.metrics,
            memory=update.memory,
        )
