"""The largest values only: where they are, their signs, and one magnitude for all.

Of all entries together the share ``density`` with the largest magnitudes is sent; the others are
zero, and come later. Positions take Elias and Fano's code, so every length is known before: with k
of n values, k (2 + log2(n / k)) bits about, and k for the signs. Few values hold much of a change
under SGD, and few hold little of one under Adam.

Source: F. Sattler et al., Robust and Communication-Efficient Federated Learning from Non-IID Data,
2019, https://arxiv.org/abs/1903.02891, algorithm 1 (sparse ternary compression).
Differs from the paper: Elias-Fano codes in place of Golomb's, whose lengths vary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedx_core.base import limits
from fedx_core.base.errors import PayloadError
from fedx_core.codec import base
from fedx_core.pruning.sparsity import largest


@dataclass(frozen=True, kw_only=True)
class Codec(base.Lossy):
    """Sparse ternary values.

    Args:
        density: share of the values that is sent, in (0, 1].
    """

    name: ClassVar[str] = "topk"

    density: float = 0.01

    def __post_init__(self) -> None:
        limits.within("(0, 1]", density=self.density)

    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return the one number of bytes, twice."""
        size = sum(self._parts(sum(counts))) + 4 if sum(counts) else 0
        return size, size

    def _sent(self, count: int) -> int:
        return min(count, max(1, round(self.density * count)))

    def _low_bits(self, count: int) -> int:
        return max((count // self._sent(count)).bit_length() - 1, 0)

    def _parts(self, count: int) -> tuple[int, int, int]:
        """Return the bytes of positions' low bits and high bits, and of signs."""
        sent, low = self._sent(count), self._low_bits(count)
        return (sent * low + 7) // 8, (sent + (count >> low) + 8) // 8, (sent + 7) // 8

    def compress(
        self, values: Mapping[str, Tensor], seed: int
    ) -> tuple[bytes, Mapping[str, Tensor]]:
        """Choose the largest; ties go to the first."""
        counts = {name: len(value) for name, value in values.items()}
        if not (count := sum(counts.values())):
            return b"", dict(values)
        flat = torch.cat(list(values.values()))
        chosen = largest(flat.abs(), self._sent(count))
        places = chosen.nonzero().reshape(-1).numpy()
        size = flat[chosen].abs().mean()
        positive = (flat[chosen] >= 0).numpy()
        low = self._low_bits(count)
        high = np.zeros(8 * self._parts(count)[1], np.bool_)
        high[(places >> low) + np.arange(len(places))] = True
        data = b"".join(
            (
                size.numpy().astype("<f4").tobytes(),
                np.packbits(places[:, None] >> np.arange(low)[::-1] & 1).tobytes(),
                np.packbits(high).tobytes(),
                np.packbits(positive).tobytes(),
            )
        )
        received = torch.zeros_like(flat)
        received[chosen] = torch.where(torch.from_numpy(positive), size, -size)
        return data, dict(zip(counts, torch.split(received, list(counts.values())), strict=True))

    def expand(self, data: memoryview, counts: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Read positions, each behind the one before, and signs."""
        count = sum(counts.values())
        found = torch.zeros(count)
        if count:
            size = torch.from_numpy(np.frombuffer(data, "<f4", 1).copy())[0]
            if not (bool(size.isfinite()) and size >= 0):
                raise PayloadError(f"compressed values are corrupt: magnitude {size}")
            places, positive = self._places(np.frombuffer(data, np.uint8, offset=4), count)
            found[torch.from_numpy(places)] = torch.where(torch.from_numpy(positive), size, -size)
        return dict(zip(counts, torch.split(found, list(counts.values())), strict=True))

    def _places(
        self, data: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        sent, low = self._sent(count), self._low_bits(count)
        ends = np.cumsum(self._parts(count))
        lows, highs, signs = (np.unpackbits(part) for part in np.split(data, ends[:2]))
        (marks,) = highs.nonzero()
        if len(marks) != sent or lows[sent * low :].any() or signs[sent:].any():
            raise PayloadError(f"compressed values are corrupt: {len(marks)} places, not {sent}")
        weights = 1 << np.arange(low, dtype=np.int64)[::-1]
        rest: Any = lows[: sent * low].reshape(sent, low).astype(np.int64) @ weights
        places = (marks - np.arange(sent) << low) + rest
        if places[-1] >= count or (np.diff(places) <= 0).any():
            raise PayloadError("compressed values are corrupt: places out of order")
        return places, signs[:sent].astype(np.bool_)
