"""What alive units own: FedX's wire format.

Both sides hold the mask, so only kept values travel, in the schema's order and without indices. A
dead unit's row, bias, BatchNorm scale, shift and statistics stay away; the columns that read it
travel as the zeros they are.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.codec import base
from fedx_core.codec.base import Buffer
from fedx_core.messages import Schema
from fedx_core.state import Payload
from fedx_core.structure import Mode


@dataclass(frozen=True)
class Codec:
    """Kept values in the schema's order."""

    mode: ClassVar[Mode | None] = "units"

    def encode(self, payload: Payload, schema: Schema) -> Buffer:
        """Frame the values that the schema's support keeps."""
        return base.encode(payload, schema, "masked")

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`; dead values are zero."""
        return base.decode(data, schema, "masked")
