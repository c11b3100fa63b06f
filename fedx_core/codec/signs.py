"""One bit a value: its sign, and one magnitude for each entry.

An entry's values become plus or minus their mean magnitude, which is the nearest such pair. Every
length is known before: a float32 an entry and a bit a value. Adam moves all weights about equally
far, so that signs keep two thirds of a change's energy; what they leave out comes later.

Source: S. P. Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression
Schemes, ICML 2019, https://arxiv.org/abs/1901.09847, section 3.
Differs from the paper: changes of several steps are sent, not gradients of one, and in both
directions; zero counts as positive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedx_core.base.errors import PayloadError
from fedx_core.codec import base
from fedx_core.pruning.masks import pack, unpack


@dataclass(frozen=True, kw_only=True)
class Codec(base.Lossy):
    """Signs and a magnitude."""

    name: ClassVar[str] = "signs"

    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return the one number of bytes, twice."""
        size = sum(4 + (count + 7) // 8 for count in counts)
        return size, size

    def compress(
        self, values: Mapping[str, Tensor], seed: int
    ) -> tuple[bytearray, Mapping[str, Tensor]]:
        """Send signs and mean magnitudes."""
        data, received = bytearray(), {}
        for name, value in values.items():
            positive = value >= 0
            size = value.abs().mean() if len(value) else value.new_zeros(())
            data += size.numpy().astype("<f4").tobytes() + pack(positive)
            received[name] = torch.where(positive, size, -size)
        return data, received

    def expand(self, data: memoryview, counts: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Read magnitudes and signs."""
        values, offset = {}, 0
        for name, count in counts.items():
            size = torch.from_numpy(np.frombuffer(data, "<f4", 1, offset).copy())[0]
            in_bytes = (count + 7) // 8
            positive = unpack(bytes(data[offset + 4 : offset + 4 + in_bytes]), (count,))
            offset += 4 + in_bytes
            if not (bool(size.isfinite()) and size >= 0):
                raise PayloadError(f"compressed values of {name!r} are corrupt: magnitude {size}")
            values[name] = torch.where(positive, size, -size)
        return values
