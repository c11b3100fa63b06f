"""What alive units own and read: the small model's values and no others.

As ``masked``, and the columns that read nothing but dead units stay away too: a weight travels as
its alive rows times its alive columns, and a residual channel without a writer is not mentioned.
Both sides derive this from the mask, so every length is known. Nothing is lost, since what stays
away is zero.
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
    """Kept rows and columns in the schema's order."""

    mode: ClassVar[Mode | None] = "slices"

    def encode(self, payload: Payload, schema: Schema) -> Buffer:
        """Frame the values that the schema's support keeps."""
        return base.encode(payload, schema, "sliced")

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`; dead values are zero."""
        return base.decode(data, schema, "sliced")
