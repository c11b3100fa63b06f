import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core.base.errors import ReferenceSetError
from fedx_core.images import strata

weights = st.lists(st.floats(0, 100), min_size=1, max_size=12)


@given(total=st.integers(0, 500), weights=weights)
@settings(max_examples=60, deadline=None)
def test_apportioned_shares_sum_up_and_are_within_one_of_exact(
    total: int, weights: list[float]
) -> None:
    given = strata.apportion(total, weights)
    assert given.sum() == total
    assert (given >= 0).all()
    if sum(weights) > 0:
        exact = [total * w / sum(weights) for w in weights]
        assert all(abs(g - e) < 1 + 1e-6 for g, e in zip(given, exact, strict=True))


def test_apportioning_gives_the_rest_to_the_largest_remainders() -> None:
    # Exact shares 2.5, 1.5, 1.0: both remainders are a half, so the first gets the last thing.
    assert strata.apportion(5, [5, 3, 2]).tolist() == [3, 1, 1]
    assert strata.apportion(10, [0.3, 0.3, 0.4]).tolist() == [3, 3, 4]
    assert strata.apportion(3, [0, 0]).tolist() == [2, 1]


def test_an_example_with_several_labels_counts_for_its_rarest() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=np.uint8)
    # Counts are 4, 1, 2: class 1 is rarest, then 2, then 0; row 3 has no label.
    assert strata.strata(labels).tolist() == [1, 2, 2, 3, 0]
    # In a set where class 0 is rarest, it wins wherever it is present.
    assert strata.strata(labels, np.array([1, 5, 5])).tolist() == [0, 0, 0, 3, 0]


def test_an_example_with_one_label_counts_for_it() -> None:
    assert strata.strata(np.array([2, 0, 1])).tolist() == [2, 0, 1]


@given(classes=st.lists(st.integers(0, 4), min_size=1, max_size=80), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_split_parts_hold_everything_once_and_keep_the_mix(classes: list[int], seed: int) -> None:
    groups = np.array(classes, dtype=np.int64)
    parts = strata.split(groups, (0.6, 0.2, 0.2), seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    for stratum in set(classes):
        size = classes.count(stratum)
        for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
            assert abs((groups[part] == stratum).sum() - share * size) < 1
    again = strata.split(groups, (0.6, 0.2, 0.2), seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_thinning_keeps_classes_and_within_each_the_origins() -> None:
    groups = np.repeat([0, 1], [300, 100])
    origins = np.tile(np.repeat([0, 1], [30, 10]), 10)
    chosen = strata.thin(groups, origins, 40, seed=3)
    assert len(np.unique(chosen)) == 40
    assert np.bincount(groups[chosen]).tolist() == [30, 10]
    first = np.bincount(origins[chosen][groups[chosen] == 0])
    # Three quarters of class 0 come from origin 0, so 22.5 of 30.
    assert abs(first[0] - 30 * (origins[:300] == 0).mean()) <= 1


@given(
    classes=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_thinning_gives_exactly_as_many_as_asked_for(
    classes: list[int], share: float, seed: int
) -> None:
    count = round(share * len(classes))
    groups = np.array(classes, dtype=np.int64)
    chosen = strata.thin(groups, groups % 2, count, seed)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())


def test_thinning_to_everything_takes_everything() -> None:
    groups = np.array([0, 1, 1, 2, 0])
    assert strata.thin(groups, groups, 5, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_drawing_by_class_takes_that_many_of_each() -> None:
    labels = np.repeat(np.arange(4), [20, 3, 50, 10])
    chosen = strata.per_class(labels, "abcd", 5, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 5, 5]
    assert not np.array_equal(chosen, strata.per_class(labels, "abcd", 5, seed=2))


def test_drawing_by_class_serves_the_rarest_class_first_and_no_example_twice() -> None:
    # Class 1 occurs in rows 0 and 1 only, and always with class 0.
    labels = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [1, 0]], dtype=np.uint8)
    for seed in range(5):
        chosen = strata.per_class(labels, ["a", "b"], 2, seed)
        # Both rows of the rare class, then two others for the common one.
        assert len(chosen) == 4
        assert {0, 1} <= set(chosen.tolist())


def test_a_class_without_examples_can_not_be_drawn() -> None:
    with pytest.raises(ReferenceSetError, match=r"1 of 3 classes .* Forest;.*limit"):
        strata.per_class(np.array([0, 2, 2]), ["Sea", "Forest", "River"], 1, seed=0)


def test_absent_classes_may_be_left_out_but_not_all_of_them() -> None:
    names = ["Sea", "Forest", "River"]
    chosen = strata.per_class(np.array([0, 2, 2]), names, 1, seed=0, skip_absent=True)
    assert len(chosen) == 2
    with pytest.raises(ReferenceSetError, match="3 of 3"):
        strata.per_class(np.zeros((2, 3), np.uint8), names, 1, seed=0, skip_absent=True)
