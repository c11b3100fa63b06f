"""Every value of every entry: FedAvg's wire format, and the yardstick of the others."""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.codec import base
from fedx_core.codec.base import Buffer
from fedx_core.messages import Schema
from fedx_core.state import Payload
from fedx_core.structure import Mode


@dataclass(frozen=True)
class Codec:
    """Whole tensors in the schema's order."""

    mode: ClassVar[Mode | None] = None

    def encode(self, payload: Payload, schema: Schema) -> Buffer:
        """Frame all values."""
        return base.encode(payload, schema, "dense")

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`."""
        return base.decode(data, schema, "dense")
