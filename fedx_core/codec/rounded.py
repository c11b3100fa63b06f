"""Values rounded to the nearest of a few levels.

Each entry has a range c, its values are clipped to it and become whole numbers of -L to L, where
L = 2^(bits - 1) - 1. Of sixteen ranges, in even steps up to the largest magnitude, the one with the
least squared error is taken: with few bits it pays to clip. Nothing is drawn; rounding is biased,
so what it leaves out has to come later (``feedback``). Every length is known before.

    of each entry: c float32; levels in ``bits`` bits each

Source: levels and ranges are our own choice; error feedback is that of S. P. Karimireddy et al.,
Error Feedback Fixes SignSGD, ICML 2019, https://arxiv.org/abs/1901.09847.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedx_core.base.errors import ConfigError, PayloadError
from fedx_core.codec import _levels, base

RANGES = 16
"""That are tried."""


@dataclass(frozen=True, kw_only=True)
class Codec(base.Lossy):
    """Nearest levels.

    Args:
        bits: of a value, 2 to 8; for one bit there is ``signs``.
    """

    name: ClassVar[str] = "rounded"

    bits: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits must be 2 to 8, got {self.bits}; signs takes one bit a value")

    @property
    def levels(self) -> int:
        """Levels a side, L; ``bits`` hold 2 L + 1."""
        return (1 << self.bits - 1) - 1

    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return the one number of bytes, twice."""
        size = sum(4 + _levels.length(count, self.levels) for count in counts)
        return size, size

    def compress(
        self, values: Mapping[str, Tensor], seed: int
    ) -> tuple[bytearray, Mapping[str, Tensor]]:
        """Send ranges and levels."""
        data, received = bytearray(), {}
        for name, value in values.items():
            reach, level = nearest(value, self.levels)
            data += reach.numpy().astype("<f4").tobytes() + _levels.pack(level, self.levels)
            received[name] = valued(reach, level, self.levels)
        return data, received

    def expand(self, data: memoryview, counts: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Read ranges and levels."""
        values, offset = {}, 0
        for name, count in counts.items():
            reach = torch.from_numpy(np.frombuffer(data, "<f4", 1, offset).copy())[0]
            size = _levels.length(count, self.levels)
            packed = bytes(data[offset + 4 : offset + 4 + size])
            offset += 4 + size
            if not (bool(reach.isfinite()) and reach >= 0):
                raise PayloadError(f"compressed values of {name!r} are corrupt: magnitude {reach}")
            level = _levels.unpack(packed, count, self.levels)
            values[name] = valued(reach, level, self.levels)
        return values


def nearest(value: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Choose a range, and round to its levels.

    Args:
        value: float32 (n,).
        levels: L.

    Returns:
        c, float32 (), and levels in -L to L, int16 (n,).
    """
    largest = value.abs().max() if len(value) else value.new_zeros(())
    best, found = torch.inf, (largest, torch.zeros(len(value), dtype=torch.int16))
    for place in range(RANGES, 0, -1) if largest > 0 else ():
        reach = largest * (place / RANGES)
        if reach == 0:  # too small for a float32
            break
        level = (value / reach).clamp(-1, 1).mul(levels).round().to(torch.int16)
        error = float((value - valued(reach, level, levels)).double().square().sum())
        if error < best:
            best, found = error, (reach, level)
    return found


def valued(reach: Tensor, level: Tensor, levels: int) -> Tensor:
    """Return what was sent: c times the level over L, float32 (n,)."""
    return level.float() * (reach / levels)
