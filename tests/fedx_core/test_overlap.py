from itertools import combinations

import pytest
import torch

from fedx_core.base.errors import MaskError
from fedx_core.pruning import overlap
from fedx_core.pruning.masks import Mask


def mask(**layers: str) -> Mask:
    return Mask("units", {n: torch.tensor([c == "1" for c in bits]) for n, bits in layers.items()})


def test_the_index_is_what_both_keep_over_what_either_keeps() -> None:
    left, right = mask(a="1100", b="10"), mask(a="0110", b="10")
    assert overlap.by_layer(left, right)["a"].jaccard == pytest.approx(1 / 3)
    assert overlap.by_layer(left, right)["b"].jaccard == 1.0
    assert overlap.overall(left, right).jaccard == pytest.approx(2 / 4)


def test_chance_is_the_average_over_all_masks_of_these_sizes() -> None:
    left = set(range(3))
    found = [len(left & set(other)) / len(left | set(other)) for other in combinations(range(7), 4)]
    expected = sum(found) / len(found)
    one, other = mask(a="1110000"), mask(a="0001111")
    assert overlap.overall(one, other).by_chance == pytest.approx(expected)
    assert overlap.by_layer(one, other)["a"].by_chance == pytest.approx(expected)


def test_chance_over_two_layers_averages_over_both() -> None:
    found = []
    for first in combinations(range(4), 2):
        for second in combinations(range(3), 2):
            common = len({0, 1} & set(first)) + len({0} & set(second))
            found.append(common / (3 + 4 - common))
    one, other = mask(a="1100", b="100"), mask(a="0011", b="011")
    assert overlap.overall(one, other).by_chance == pytest.approx(sum(found) / len(found))


def test_wide_layers_are_quick_and_close_to_the_index_of_the_mean() -> None:
    wide = Mask("units", {str(n): torch.arange(3072) % 2 == 0 for n in range(12)})
    # With half of all units kept, a quarter is common and three quarters are kept by either.
    assert overlap.overall(wide, wide).by_chance == pytest.approx(1 / 3, abs=1e-3)
    assert overlap.overall(wide, wide).jaccard == 1.0


def test_masks_that_keep_nothing_or_all_agree() -> None:
    assert overlap.overall(mask(a="00"), mask(a="00")) == overlap.Overlap(1.0, 1.0)
    assert overlap.overall(mask(a="11"), mask(a="11")) == overlap.Overlap(1.0, 1.0)


def test_masks_of_different_models_are_refused() -> None:
    assert not overlap.comparable(mask(a="11"), mask(b="11"))
    with pytest.raises(MaskError, match="take runs of one model"):
        overlap.by_layer(mask(a="11"), mask(a="111"))
