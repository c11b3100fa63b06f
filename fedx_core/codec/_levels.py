"""Small whole numbers in as few bits as their range needs, first value in the highest bits.

A level in -s to s travels as ``level + s`` in 1 + ceil(log2(s + 1)) bits: as many as a sign and a
level from 0 to s take. The last byte is filled with zeros.
"""

import numpy as np
import torch
from torch import Tensor

from fedx_core.base.errors import PayloadError


def bits(levels: int) -> int:
    """Return the bits of one value in -levels to levels."""
    return (2 * levels).bit_length()


def length(values: int, levels: int) -> int:
    """Return the bytes of so many values."""
    return (values * bits(levels) + 7) // 8


def pack(values: Tensor, levels: int) -> bytes:
    """Pack whole numbers.

    Args:
        values: integers of any shape and dtype, each in -levels to levels.
        levels: the largest absolute value, 1 to 32,767.

    Raises:
        PayloadError: a value lies outside; nothing is clipped.
    """
    codes = values.reshape(-1).int().numpy() + levels
    if codes.size and not (codes.min() >= 0 and codes.max() <= 2 * levels):
        raise PayloadError(
            f"levels from {codes.min() - levels} to {codes.max() - levels}, wanted {-levels} to "
            f"{levels}; they are not clipped, since the mean of what is sent would change"
        )
    places = np.arange(bits(levels) - 1, -1, -1)
    return np.packbits((codes[:, None] >> places & 1).astype(np.uint8)).tobytes()


def unpack(data: bytes, count: int, levels: int) -> Tensor:
    """Undo :func:`pack`: int16 (count,).

    Raises:
        PayloadError: a code stands for no level, or a padding bit is set.
    """
    width = bits(levels)
    every = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if every[count * width :].any():
        raise PayloadError("a padding bit of packed levels is set; the payload is corrupt")
    codes = np.zeros(count, dtype=np.int32)
    for place in every[: count * width].reshape(count, width).T:
        codes = codes << 1 | place
    if count and int(codes.max()) > 2 * levels:
        raise PayloadError(
            f"a level of {int(codes.max()) - levels}, wanted {levels} at most; "
            "the payload is corrupt"
        )
    return torch.from_numpy((codes - levels).astype(np.int16))
