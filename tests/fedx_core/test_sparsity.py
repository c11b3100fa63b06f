import math

import pytest
import torch

from fedx_core.pruning.masks import Mask
from fedx_core.pruning.sparsity import (
    churn,
    erdos_renyi_kernel,
    largest,
    largest_of_all,
    scaled_sparsities,
)

SHAPES = {
    "conv1": (64, 3, 7, 7),
    "conv2": (64, 64, 3, 3),
    "conv3": (128, 64, 1, 1),
    "fc": (10, 128),
}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.95])
def test_densities_are_proportional_to_sides_over_weights_and_at_most_one(sparsity: float) -> None:
    kept = erdos_renyi_kernel(SHAPES, sparsity)
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    assert sum(kept.values()) == pytest.approx(
        (1 - sparsity) * sum(sizes.values()), abs=len(SHAPES)
    )
    ratios = [
        kept[name] / sizes[name] / (sum(shape) / sizes[name])
        for name, shape in SHAPES.items()
        if kept[name] < sizes[name]
    ]
    assert not ratios or max(ratios) / min(ratios) == pytest.approx(1, abs=0.02)
    # What is dense would have been denser still.
    assert all(
        sum(shape) / sizes[name] * max(ratios, default=0) >= 0.98
        for name, shape in SHAPES.items()
        if kept[name] == sizes[name] and ratios
    )


def test_the_code_of_feddst_scales_sparsities_and_comes_out_nearly_even() -> None:
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    kept = scaled_sparsities(SHAPES, dict.fromkeys(SHAPES, 0), 0.8)
    densities = [kept[name] / sizes[name] for name in SHAPES]
    assert max(densities) - min(densities) < 0.12
    true = erdos_renyi_kernel(SHAPES, 0.8)
    assert max(true[n] / sizes[n] for n in SHAPES) - min(true[n] / sizes[n] for n in SHAPES) > 0.5


def test_the_largest_are_chosen_among_the_allowed_with_ties_by_index() -> None:
    value = torch.tensor([[1.0, 5.0], [5.0, 5.0]])
    assert largest(value, 2).tolist() == [[False, True], [True, False]]
    among = torch.tensor([[True, False], [True, False]])
    assert largest(value, 3, among).tolist() == among.tolist()
    assert not largest(value, 0).any()
    random = torch.randint(0, 9, (500,), generator=torch.Generator().manual_seed(3)).float()
    for count in (1, 7, 250, 499, 500, 900):
        slowly = sorted(range(500), key=lambda place: (-float(random[place]), place))[:count]
        assert largest(random, count).nonzero().reshape(-1).tolist() == sorted(slowly)


def test_one_threshold_over_all_layers_keeps_what_is_alive() -> None:
    weights = {"a": torch.tensor([1.0, -9.0, 2.0]), "b": torch.tensor([[3.0, 0.5]])}
    mask = largest_of_all(weights, 0.6)
    assert {name: kept.tolist() for name, kept in mask.entries.items()} == {
        "a": [False, True, False], "b": [[True, False]],
    }  # fmt: skip
    alive = Mask(
        "parameters", {"a": torch.tensor([True, False, True]), "b": torch.ones(1, 2).bool()}
    )
    again = largest_of_all(weights, 0.6, alive)
    assert again.entries["a"].tolist() == [False, False, True]
    assert churn(mask, again) == 0.5
    assert churn(None, again) == 0
