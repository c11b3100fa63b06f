"""How far two masks agree on what to keep, and how far they would by chance.

The Jaccard index of two masks rises with what both keep, so it says little without the value that
masks of the same sizes have on average when units are drawn at random.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import MaskError
from fedx_core.pruning.masks import Mask

NEGLIGIBLE = 1e-18
"""Probability below which an outcome is left out."""

Counts = tuple[int, int, int]
"""Units in all, kept on the left, kept on the right."""


@dataclass(frozen=True)
class Overlap:
    """Agreement of two masks, 0 (nothing in common) to 1 (equal).

    Args:
        jaccard: units kept by both over units kept by either; 1 where both keep none.
        by_chance: its expectation for masks that keep as many units of each layer, drawn evenly.
    """

    jaccard: float
    by_chance: float


def comparable(left: Mask, right: Mask) -> bool:
    """Say whether two masks speak of the same layers with the same units."""
    return left.kind == right.kind and {n: k.shape for n, k in left.entries.items()} == {
        n: k.shape for n, k in right.entries.items()
    }


def overall(left: Mask, right: Mask) -> Overlap:
    """Compare two masks over all layers.

    Raises:
        MaskError: they are of different models.
    """
    _require_comparable(left, right)
    return _overlap(left, right, list(left.entries))


def by_layer(left: Mask, right: Mask) -> dict[str, Overlap]:
    """Compare two masks layer by layer.

    Raises:
        MaskError: they are of different models.
    """
    _require_comparable(left, right)
    return {name: _overlap(left, right, [name]) for name in left.entries}


def _overlap(left: Mask, right: Mask, names: list[str]) -> Overlap:
    counts, both = [], 0
    for name in names:
        one, other = left.entries[name], right.entries[name]
        counts.append((one.numel(), int(one.sum()), int(other.sum())))
        both += int((one & other).sum())
    either = sum(kept + kept_too for _, kept, kept_too in counts) - both
    return Overlap(both / either if either else 1.0, _by_chance(counts))


def _by_chance(layers: Iterable[Counts]) -> float:
    """Average the index over all masks of these sizes: common units add up over layers."""
    chances, fewest, total = np.ones(1), 0, 0
    for units, left, right in layers:
        own, first = _common_units(units, left, right)
        chances = np.convolve(chances, own)
        fewest += first
        total += left + right
    common = fewest + np.arange(len(chances))
    either = total - common
    index = np.where(either > 0, common / np.maximum(either, 1), 1.0)
    return float((chances * index).sum())


def _common_units(units: int, left: int, right: int) -> tuple[NDArray[np.float64], int]:
    """Return the chances of some numbers of common units (hypergeometric), and the first number.

    Numbers that hardly ever occur are left out, which keeps sums over wide layers short.
    """
    first, last = max(0, left + right - units), min(left, right)
    chances = np.array(
        [
            math.exp(
                _log_choices(left, both)
                + _log_choices(units - left, right - both)
                - _log_choices(units, right)
            )
            for both in range(first, last + 1)
        ]
    )
    likely = np.flatnonzero(chances > NEGLIGIBLE)
    return chances[likely[0] : likely[-1] + 1], first + int(likely[0])


def _log_choices(among: int, chosen: int) -> float:
    return math.lgamma(among + 1) - math.lgamma(chosen + 1) - math.lgamma(among - chosen + 1)


def _require_comparable(left: Mask, right: Mask) -> None:
    if not comparable(left, right):
        raise MaskError(
            f"masks over {left.size} {left.kind} in {len(left.entries)} layers and {right.size} "
            f"{right.kind} in {len(right.entries)} can't be compared; take runs of one model"
        )
