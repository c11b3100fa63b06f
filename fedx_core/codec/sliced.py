"""What alive units own and read: the small model's values and no others.

As ``masked``, and the columns that read nothing but dead units stay away too: a weight travels as
its alive rows times its alive columns, and a residual channel without a writer is not mentioned.
Both sides derive this from the mask, so every length is known. Nothing is lost, since what stays
away is zero.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.codec import base
from fedx_core.pruning.structure import Mode


@dataclass(frozen=True)
class Codec(base.Lossless):
    """Kept rows and columns in the schema's order."""

    name: ClassVar[str] = "sliced"
    mode: ClassVar[Mode | None] = "slices"
