"""Numbers that are the same bits on every machine.

Only what IEEE 754 rounds exactly is used, one operation at a time: sums, products, quotients and
roots. Sines, exponentials, matrix products and normal draws are left to no library, since theirs
depend on the processor and on versions.
"""

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Generators = Sequence[np.random.Generator]
F = TypeVar("F", np.float32, np.float64)

_LEVELS = 1 << 16
_GRID = 1 << 12
"""Steps in one: coarse enough that the last bits of a library's logarithm are rounded away."""

# 2 pi, and the coefficients of the sine's series from the highest power to the third.
_TURN = 6.283185307179586
_SERIES = tuple(
    sign / factorial
    for sign, factorial in (
        (-1.0, 1307674368000.0), (1.0, 6227020800.0), (-1.0, 39916800.0), (1.0, 362880.0),
        (-1.0, 5040.0), (1.0, 120.0), (-1.0, 6.0),
    )
)  # fmt: skip


def sine(turns: NDArray[F]) -> NDArray[F]:
    """Return the sine of an angle in turns, to 1e-11 or the rounding of float32; same shape."""
    rest = turns - np.floor(turns + 0.5)
    half = np.copysign(np.asarray(0.5, turns.dtype), rest)
    rest = np.where(np.abs(rest) > 0.25, half - rest, rest)
    angle = rest * _TURN
    square = angle * angle
    series = np.zeros_like(angle)
    for coefficient in _SERIES:
        series = (series + coefficient) * square
    found: NDArray[F] = angle + angle * series
    return found


def normals(generators: Generators, shape: Sequence[int]) -> Floats:
    """Draw from the standard normal distribution in 65,536 levels; (n, *shape), |x| < 4.3."""
    table = _quantiles()
    return np.stack([table[g.integers(0, _LEVELS, shape, np.uint16)] for g in generators])


def on_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round what a library has computed so far that its last bits do not matter."""
    return np.asarray(np.round(values * _GRID) / _GRID)


def interpolated(grid: Floats, side: int) -> Floats:
    """Interpolate grids of knots linearly, keeping the variance the same everywhere.

    Args:
        grid: (..., knots, knots), at least two each way.
        side: of the result, (..., side, side).
    """
    knots = grid.shape[-1]
    place = np.linspace(0, knots - 1, side, dtype=np.float32)
    low = np.minimum(place.astype(np.int64), knots - 2)
    after = place - low.astype(np.float32)
    before = 1 - after
    norm = np.sqrt(before * before + after * after)
    before, after = before / norm, after / norm
    rows = grid[..., low, :] * before[:, None] + grid[..., low + 1, :] * after[:, None]
    return np.asarray(rows[..., low] * before + rows[..., low + 1] * after, dtype=np.float32)


@cache
def _quantiles() -> Floats:
    half = [NormalDist().inv_cdf((level + 0.5) / _LEVELS) for level in range(_LEVELS // 2)]
    lower = on_grid(np.array(half))
    return np.concatenate([lower, -lower[::-1]]).astype(np.float32)
