"""A few levels a value, most of them zero, in as many bits as they hold information.

A value u becomes its sign times the level floor(|u| / step + 1 - dead_zone). One step serves all
values; it is found by bisection, so that a value takes ``bits`` in the mean. Each level stands for
the mean magnitude of the values that have it. Levels are coded by asymmetric numeral systems under
their own frequencies, which are sent; a sign costs a bit where there is one.

    the step                             float32
    mean magnitude of each level         float16 (levels,), in steps
    frequency of each level, zero first  uint16 (levels + 1,), of 65,535
    levels                               words of 32 bits

Source: a scalar quantiser with a dead zone, G. J. Sullivan, Efficient Scalar Quantization of
Exponential and Laplacian Random Variables, IEEE Transactions on Information Theory 42, 1996. Coding
by the package ``constriction``: R. Bamler, Understanding Entropy Coding With Asymmetric Numeral
Systems, 2022, https://arxiv.org/abs/2201.01741.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar, Literal

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError, PayloadError
from fedx_core.codec import base

_TOGETHER = 3
"""Values whose levels are one symbol of the coder, whose time goes by symbols."""
_STEP = struct.Struct("<f")
_EVERY = 65_535
_SAMPLE = 1 << 18
"""Values that step, means and frequencies are taken from; all, where there are no more."""
_HALVINGS = 40
_TRIED = 64


@dataclass(frozen=True, kw_only=True)
class Codec(base.Lossy):
    """Entropy-coded levels with a dead zone.

    Args:
        bits: of a value in the mean, signs counted, above 0 and at most 4. What a low rate leaves
            out comes later, so that a run of few rounds needs more.
        levels: the largest level, 1 to 7.
        dead_zone: magnitudes below so many steps become zero, 0.5 to 1; 0.5 rounds to the nearest
            level.
        steps: how many times as coarse the step of some layers is, by the beginnings of their
            names, such as ``layer2.0: 2``; of several that fit the longest counts, and 1 where none
            does.
    """

    name: ClassVar[str] = "deadzone"

    bits: float = 1.28
    levels: int = 7
    dead_zone: float = 0.6
    steps: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, factor in self.steps.items():
            if not 0.01 <= factor <= 100:
                raise ConfigError(f"steps: {name!r} must be 0.01 to 100, got {factor}")
        if not 0 < self.bits <= 4:
            raise ConfigError(f"bits must be more than 0 and at most 4, got {self.bits}")
        if not 0.5 <= self.dead_zone <= 1:
            raise ConfigError(f"dead_zone must be 0.5 to 1, got {self.dead_zone}")
        limits.at_least(1, levels=self.levels)
        limits.at_most(7, levels=self.levels)

    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return the bytes where all values are zero, and where all levels are as frequent."""
        count = sum(counts)
        if not count:
            return 0, 0
        # Frequencies of 16 bits cost less than 0.1 bits a value, and the coder begins with 64.
        bits = (count + _TOGETHER) * (math.log2(2 * self.levels + 1) + 0.1) + 64
        return self._table, self._table + 4 * math.ceil(bits / 32)

    @property
    def _table(self) -> int:
        return _STEP.size + 2 * self.levels + 2 * (self.levels + 1)

    def compress(
        self, values: Mapping[str, Tensor], seed: int
    ) -> tuple[bytes, Mapping[str, Tensor]]:
        """Quantise all values by one step, and code their levels."""
        counts = {name: len(value) for name, value in values.items()}
        if not sum(counts.values()):
            return b"", dict(values)
        flat = torch.cat([self._scaled(n, value, -1) for n, value in values.items()]).numpy()
        for stride in dict.fromkeys((math.ceil(len(flat) / _SAMPLE), 1)):
            data, received = self._coded(flat, np.sort(np.abs(flat[::stride])))
            if len(data) <= self.sizes(list(counts.values()))[1]:
                break  # else the sample was unlike the whole
        return data, self._by_name(received, counts)

    def expand(self, data: memoryview, counts: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Decode as many levels as there are values, whatever the bytes say."""
        count = sum(counts.values())
        if not count:
            return self._by_name(np.empty(0, np.float32), counts)
        (step,) = _STEP.unpack_from(data)
        means = np.frombuffer(data, "<f2", self.levels, _STEP.size)
        shares = np.frombuffer(data, "<u2", self.levels + 1, _STEP.size + means.nbytes)
        if not (0 <= step < math.inf and np.isfinite(means).all() and (means >= 0).all()):
            raise PayloadError("compressed values are corrupt: a level that stands for no number")
        if int(shares.sum(dtype=np.int64)) != _EVERY or len(data) % 4 != self._table % 4:
            raise PayloadError("compressed values are corrupt: impossible frequencies or length")
        words = np.frombuffer(data[self._table :], "<u4")
        return self._by_name(self._decoded(words, count, step, means, shares), counts)

    def _by_name(self, flat: NDArray[np.float32], counts: Mapping[str, int]) -> dict[str, Tensor]:
        parts = torch.split(torch.from_numpy(flat), list(counts.values())) if counts else ()
        return {n: self._scaled(n, part, 1) for n, part in zip(counts, parts, strict=True)}

    def _scaled(self, entry: str, value: Tensor, way: Literal[-1, 1]) -> Tensor:
        """Bring a layer's values to the one step of all, or back; ``entry`` is ``section/name``."""
        name = entry.partition("/")[2]
        fitting = [beginning for beginning in self.steps if name.startswith(beginning)]
        return value * self.steps[max(fitting, key=len)] ** way if fitting else value

    def _coded(
        self, flat: NDArray[np.float32], sample: NDArray[np.float32]
    ) -> tuple[bytes, NDArray[np.float32]]:
        step = np.float32(self._step(sample))
        means, shares = self._means(sample, step).astype("<f2"), _shares(self._held(sample, step))
        symbols = self._symbols(flat, step)
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, self._model(shares))
        parts = (_STEP.pack(step), means.tobytes(), shares.tobytes())
        data = b"".join(parts) + coder.get_compressed().astype("<u4").tobytes()
        return data, self._looked_up(symbols, len(flat), step, means)

    def _decoded(
        self,
        words: NDArray[Any],
        count: int,
        step: float,
        means: NDArray[Any],
        shares: NDArray[Any],
    ) -> NDArray[np.float32]:
        try:
            coder = constriction.stream.stack.AnsCoder(words.astype(np.uint32))
            symbols = coder.decode(self._model(shares), math.ceil(count / _TOGETHER))
        except ValueError as error:
            raise PayloadError(f"compressed values are corrupt: {error}") from error
        if not coder.is_empty():
            raise PayloadError("compressed values are corrupt: there are more than wanted")
        return self._looked_up(symbols, count, np.float32(step), means)

    def _symbols(self, flat: NDArray[np.float32], step: np.float32) -> NDArray[np.int32]:
        """Return levels from -levels to levels as whole numbers from 0, some to a symbol."""
        if not step:
            signed = np.zeros(len(flat), np.int32)
        else:
            scaled = np.abs(flat) / step
            scaled += np.float32(1 - self.dead_zone)
            np.minimum(scaled, np.float32(self.levels), out=scaled)
            signed = np.copysign(np.floor(scaled, out=scaled), flat, out=scaled).astype(np.int32)
        rows = np.pad(signed, (0, -len(flat) % _TOGETHER)).reshape(-1, _TOGETHER) + self.levels
        symbols = rows[:, 0]
        for column in range(1, _TOGETHER):
            symbols = symbols * (2 * self.levels + 1) + rows[:, column]
        return symbols

    def _looked_up(
        self, symbols: NDArray[np.int32], count: int, step: np.float32, means: NDArray[Any]
    ) -> NDArray[np.float32]:
        stands_for = step * means.astype(np.float32)
        levels = np.concatenate((-stands_for[::-1], np.zeros(1, np.float32), stands_for))
        return levels[_digits(len(levels))][symbols].reshape(-1)[:count]

    def _model(self, shares: NDArray[Any]) -> Any:
        """Say how frequent each symbol is, if levels and signs are independent of each other."""
        once = shares / _EVERY
        signed = np.concatenate((once[:0:-1] / 2, once[:1], once[1:] / 2))
        together = signed
        for _ in range(_TOGETHER - 1):
            together = np.outer(together, signed).reshape(-1)
        return constriction.stream.model.Categorical(together, perfect=False)

    def _step(self, sample: NDArray[np.float32]) -> float:
        """Find the largest step that takes the bits asked for, or else the one with least error."""
        largest, mean = float(sample[-1]), float(sample.mean(dtype=np.float64))
        if not mean:
            return 0.0
        # At the first all is zero; at the last few are, and all but those fill the last level.
        step, least = largest / self.dead_zone * 1.01, mean / self.levels
        total = np.concatenate(([0.0], np.cumsum(sample, dtype=np.float64)))
        tried = np.geomspace(step, least, _TRIED)
        least = float(max(tried, key=lambda each: self._explained(sample, total, each)))
        for _ in range(_HALVINGS):
            middle = math.sqrt(step * least)
            if self._cost(sample, middle) < self.bits:
                step = middle
            else:
                least = middle
        return least

    def _explained(
        self, sample: NDArray[np.float32], total: NDArray[np.float64], step: float
    ) -> float:
        """Return how much of the sum of squares the levels' means hold under a step."""
        edges = self._edges(sample, np.float32(step))
        return float((np.diff(total[edges])[1:] ** 2 / np.maximum(np.diff(edges)[1:], 1)).sum())

    def _cost(self, sample: NDArray[np.float32], step: float) -> float:
        """Return the bits of a value under a step: the levels' entropy, and the signs."""
        share = self._held(sample, np.float32(step)) / len(sample)
        held = share[share > 0]
        return float(1 - share[0] - (held * np.log2(held)).sum())

    def _edges(self, sample: NDArray[np.float32], step: np.float32) -> NDArray[np.int64]:
        """Return where each level begins in sorted magnitudes, and where the last one ends."""
        least = (np.arange(self.levels) + self.dead_zone) * float(step)
        found = np.searchsorted(sample, least) if step else np.full(self.levels, len(sample))
        return np.concatenate(([0], found, [len(sample)]))

    def _held(self, sample: NDArray[np.float32], step: np.float32) -> NDArray[np.int64]:
        return np.diff(self._edges(sample, step))

    def _means(self, sample: NDArray[np.float32], step: np.float32) -> NDArray[np.float64]:
        """Return the mean magnitude of each level in steps; its middle where nothing has it."""
        edges = self._edges(sample, step)
        total = np.concatenate(([0.0], np.cumsum(sample, dtype=np.float64)))[edges]
        count, middle = np.diff(edges)[1:], np.arange(self.levels) + self.dead_zone + 0.5
        mean = np.diff(total)[1:] / np.maximum(count, 1) / (float(step) or 1.0)
        return np.minimum(np.where(count > 0, mean, middle), np.finfo(np.float16).max)


def _shares(held: NDArray[np.int64]) -> NDArray[Any]:
    """Round frequencies to whole numbers of 65,535 in all; none that occurs becomes zero."""
    shares: NDArray[Any] = np.maximum(held * _EVERY // held.sum(), held > 0)
    shares[shares.argmax()] += _EVERY - shares.sum()
    return shares.astype("<u2")


@lru_cache(maxsize=8)
def _digits(base: int) -> NDArray[np.intp]:
    """Return the digits of each symbol, most significant first; (base ** 3, 3)."""
    return np.array(list(product(range(base), repeat=_TOGETHER)), dtype=np.intp)
