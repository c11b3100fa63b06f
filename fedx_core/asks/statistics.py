"""Count and add up the pixels of the training part, band by band: federated normalisation."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedx_core.asks import base
from fedx_core.asks.base import Answer, Asked
from fedx_core.base.state import Payload
from fedx_core.desk.plan import Plan
from fedx_core.images.moments import Moments, measure
from fedx_core.wire import domains
from fedx_core.wire.messages import Entry, Schema


@dataclass(frozen=True, kw_only=True)
class Ask(base.Ask):
    """Asked before the first round; no model is there yet."""

    sends_model: ClassVar[bool] = False
    verb: ClassVar[str] = "count and add up pixels"

    def schema(self, plan: Plan) -> Schema:
        """Send a count and two sums a band, float64."""
        bands = (plan.bands,)
        return Schema(
            (
                Entry("pixels/count", "torch.float64", (1,), domain=domains.COUNT),
                Entry("pixels/total", "torch.float64", bands, domain=domains.POSITIVE),
                Entry("pixels/total_of_squares", "torch.float64", bands, domain=domains.POSITIVE),
            )
        )

    def do(self, asked: Asked) -> Answer:
        """Measure them."""
        shard = asked.shard("train")
        moments = measure(shard, asked.plan.pixels.scale)
        payload = {
            "pixels/count": torch.tensor([moments.count], dtype=torch.float64),
            "pixels/total": torch.from_numpy(moments.total),
            "pixels/total_of_squares": torch.from_numpy(moments.total_of_squares),
        }
        return Answer(examples=len(shard), payload=payload)


def moments_of(payload: Payload) -> Moments:
    """Read one client's counts and sums, whose values were checked."""
    return Moments(
        int(payload["pixels/count"]),
        payload["pixels/total"].numpy(),
        payload["pixels/total_of_squares"].numpy(),
    )
