"""What alive units own: FedX's wire format.

Both sides hold the mask, so only kept values travel, in the schema's order and without indices. A
dead unit's row, bias, BatchNorm scale, shift and statistics stay away; the columns that read it
travel as the zeros they are.
"""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.codec import base
from fedx_core.pruning.structure import Mode


@dataclass(frozen=True)
class Codec(base.Lossless):
    """Kept values in the schema's order."""

    name: ClassVar[str] = "masked"
    mode: ClassVar[Mode | None] = "units"
