import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core.base.errors import MaskError
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, keep_highest

layers = st.lists(st.integers(1, 40), min_size=1, max_size=4)
rates = st.floats(0, 0.99)


def draw(sizes: list[int], seed: int) -> masks.Scores:
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that ties are common.
    return {
        f"layer{i}": torch.randint(0, 6, (size,), generator=generator).float()
        for i, size in enumerate(sizes)
    }


@given(layers, rates, st.integers(0, 99))
def test_each_layer_loses_exactly_floor_of_rate_times_units(
    sizes: list[int], rate: float, seed: int
) -> None:
    mask = keep_highest(draw(sizes, seed), rate)
    for i, size in enumerate(sizes):
        assert int((~mask.entries[f"layer{i}"]).sum()) == math.floor(rate * size + 1e-9)


@given(layers, rates, st.integers(0, 99))
def test_the_slow_rule_of_equations_6_and_7_chooses_the_same_units(
    sizes: list[int], rate: float, seed: int
) -> None:
    scores = draw(sizes, seed)
    mask = keep_highest(scores, rate)
    for name, score in scores.items():
        ranked = sorted(range(len(score)), key=lambda unit: (float(score[unit]), unit))
        pruned = set(ranked[: math.floor(rate * len(score) + 1e-9)])
        assert {u for u in range(len(score)) if not mask.entries[name][u]} == pruned


@given(layers, rates, st.integers(0, 99), st.integers(0, 5))
def test_min_keep_protects_the_best_units_of_every_layer(
    sizes: list[int], rate: float, seed: int, min_keep: int
) -> None:
    scores = draw(sizes, seed)
    for scope in ("layer", "global"):
        mask = keep_highest(scores, rate, scope=scope, min_keep=min_keep)
        for name, score in scores.items():
            assert int(mask.entries[name].sum()) >= min(min_keep, len(score))


@given(layers, rates, st.integers(0, 99))
def test_the_global_scope_removes_the_lowest_of_all_layers(
    sizes: list[int], rate: float, seed: int
) -> None:
    scores = draw(sizes, seed)
    mask = keep_highest(scores, rate, scope="global")
    kept = torch.cat(list(mask.entries.values()))
    values = torch.cat(list(scores.values()))
    assert int((~kept).sum()) == math.floor(rate * len(values) + 1e-9)
    if kept.any() and not kept.all():
        assert values[~kept].max() <= values[kept].min()


@given(layers, st.integers(0, 99), rates, rates)
def test_masks_of_a_rising_rate_are_nested(
    sizes: list[int], seed: int, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    first = keep_highest(draw(sizes, seed), low)
    second = keep_highest(draw(sizes, seed + 1), high, alive=first)
    for name in first.entries:
        assert not (second.entries[name] & ~first.entries[name]).any()
        assert int((~second.entries[name]).sum()) == math.floor(
            high * len(first.entries[name]) + 1e-9
        )


def test_ties_go_by_index_and_a_quantile_would_prune_nothing() -> None:
    scores = {"layer": torch.ones(8)}
    assert keep_highest(scores, 0.5).entries["layer"].tolist() == [False] * 4 + [True] * 4
    assert (scores["layer"] >= scores["layer"].quantile(0.5)).all()


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, 90])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    with pytest.raises(MaskError, match=r"\[0, 1\)"):
        keep_highest({"layer": torch.ones(3)}, rate)


def test_nan_scores_are_refused_by_layer() -> None:
    with pytest.raises(MaskError, match="conv1"):
        keep_highest({"conv1": torch.tensor([1.0, math.nan])}, 0.5)


@given(st.lists(st.booleans(), max_size=70))
def test_packing_bits_and_unpacking_them_gives_the_same_mask(bits: list[bool]) -> None:
    kept = torch.tensor(bits, dtype=torch.bool)
    packed = masks.pack(kept)
    assert len(packed) == math.ceil(len(bits) / 8)
    assert torch.equal(masks.unpack(packed, (len(bits),)), kept)


def test_a_truncated_mask_and_a_set_padding_bit_are_refused() -> None:
    with pytest.raises(MaskError, match="2 for 9 bits"):
        masks.unpack(b"\xff", (9,))
    with pytest.raises(MaskError, match="padding"):
        masks.unpack(b"\xff\xff", (9,))


def test_the_digest_tells_masks_apart_by_bits_and_by_names() -> None:
    mask = Mask("units", {"a": torch.tensor([True, False])})
    assert mask.digest() == Mask("units", {"a": torch.tensor([True, False])}).digest()
    assert mask.digest() != Mask("units", {"a": torch.tensor([True, True])}).digest()
    assert mask.digest() != Mask("units", {"b": torch.tensor([True, False])}).digest()


def test_a_mask_of_floats_is_refused() -> None:
    with pytest.raises(MaskError, match=r"torch\.bool"):
        Mask("units", {"a": torch.ones(2)})


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_kept_count_agrees_with_the_expanded_support(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    row = torch.rand(rows, 1, generator=generator) > 0.5
    both = row & (torch.rand(1, columns, generator=generator) > 0.5)
    for kept in (row, both):
        assert masks.kept_count(kept, (rows, columns)) == int(kept.expand(rows, columns).sum())


def test_jaccard_is_the_share_of_the_union_that_both_keep() -> None:
    left = Mask("units", {"a": torch.tensor([True, True, False])})
    right = Mask("units", {"a": torch.tensor([False, True, True])})
    assert masks.jaccard(left, right) == pytest.approx(1 / 3)
