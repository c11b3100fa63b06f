"""Every value of every entry: FedAvg's wire format, and the yardstick of the others."""

from dataclasses import dataclass
from typing import ClassVar

from fedx_core.codec import base


@dataclass(frozen=True)
class Codec(base.Lossless):
    """Whole tensors in the schema's order."""

    name: ClassVar[str] = "dense"
