from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.partition import base, by_country, dirichlet, iid, quantity
from fedx_core.partition.base import Known, Shares


def known(labels: ArrayLike, groups: ArrayLike | None = None) -> Known:
    every = np.asarray(labels)
    origins = np.zeros(len(every)) if groups is None else groups
    return Known(every, np.asarray(origins, dtype=np.int16))


def sizes(share: Shares) -> list[int]:
    return [len(part) for part in share.values()]


TRAIN = known(np.tile(np.arange(5), 200))
TEST = known(np.tile(np.arange(5), 60))


def test_iid_sizes_differ_by_one_at_most() -> None:
    train, test = iid.Partition(clients=7).assign(TRAIN, TEST, (), seed=0)
    assert sorted(sizes(train)) == [142, 143, 143, 143, 143, 143, 143]
    assert sorted(sizes(test)) == [42, 43, 43, 43, 43, 43, 43]


def test_iid_clients_see_all_classes_about_equally() -> None:
    train, _ = iid.Partition(clients=4).assign(TRAIN, TEST, (), seed=0)
    for part in train.values():
        counts = np.bincount(TRAIN.labels[part], minlength=5)
        # 50 expected of each; 25 is four standard deviations below.
        assert counts.min() > 25


def test_dirichlet_shares_of_a_class_are_the_draws_rounded() -> None:
    # The rule again, slowly: class by class, shuffle, draw shares, cut.
    rule = dirichlet.Partition(clients=3, alpha=5.0, min_examples=1)
    train, _ = rule.assign(TRAIN, TEST, (), seed=11)
    generator = np.random.default_rng(11)
    wanted = {client: [] for client in train}
    for index in range(5):
        members = [i for i in range(1000) if TRAIN.labels[i] == index]
        members = generator.permutation(members).tolist()
        draws = generator.dirichlet([5.0] * 3)
        counts = [int(200 * draw) for draw in draws]
        for place in sorted(range(3), key=lambda k: counts[k] - 200 * draws[k]):
            counts[place] += sum(counts) < 200
        for client, count in zip(wanted, counts, strict=True):
            wanted[client] += members[:count]
            members = members[count:]
    assert {client: part.tolist() for client, part in train.items()} == {
        client: sorted(part) for client, part in wanted.items()
    }


def test_a_smaller_alpha_gives_clients_fewer_classes() -> None:
    def largest_share(alpha: float) -> float:
        rule = dirichlet.Partition(clients=5, alpha=alpha)
        train, _ = rule.assign(TRAIN, TEST, (), seed=3)
        counts = [np.bincount(TRAIN.labels[part], minlength=5) for part in train.values()]
        return sum([c.max() / c.sum() for c in counts]) / 5

    assert largest_share(0.05) > 0.6
    assert largest_share(100.0) < 0.3


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_each_dirichlet_client_gets_the_least_number_of_examples(alpha: float) -> None:
    train, _ = dirichlet.Partition(clients=20, alpha=alpha).assign(TRAIN, TEST, (), seed=1)
    assert min(sizes(train)) >= 10
    assert sum(sizes(train)) == 1000


def test_dirichlet_clients_are_tested_on_the_mix_that_they_train_on() -> None:
    train, test = dirichlet.Partition(clients=4, alpha=0.5).assign(TRAIN, TEST, (), seed=5)
    for client in train:
        trained = np.bincount(TRAIN.labels[train[client]], minlength=5)
        tested = np.bincount(TEST.labels[test[client]], minlength=5)
        # 200 training and 60 test examples per class.
        assert np.abs(tested - trained * 60 / 200).max() < 1


def test_dirichlet_skews_by_the_rarest_label() -> None:
    # Everyone has label 0; what tells images apart is the other one.
    labels = np.zeros((600, 4), np.uint8)
    labels[:, 0] = 1
    labels[np.arange(600), 1 + np.arange(600) % 3] = 1
    train, _ = dirichlet.Partition(clients=3, alpha=0.1).assign(
        known(labels), known(labels), (), seed=0
    )
    shares = np.array([labels[part].mean(axis=0) for part in train.values()])
    assert (shares[:, 0] == 1).all()
    assert shares[:, 1:].max() > 0.7


def test_a_class_that_nobody_trains_on_is_tested_by_size() -> None:
    train = known([0] * 30)
    shares = [np.arange(20), np.arange(20, 30)]
    parts = base.follow(shares, train, known([1] * 9), np.random.default_rng(0))
    assert [len(part) for part in parts] == [6, 3]


def test_quantity_changes_sizes_and_leaves_the_mix() -> None:
    rule = quantity.Partition(clients=5, alpha=0.5)
    train, test = rule.assign(TRAIN, TEST, (), seed=2)
    assert min(sizes(train)) >= 10
    assert max(sizes(train)) > 2 * min(sizes(train))
    for mine, tested in zip(sizes(train), sizes(test), strict=True):
        assert abs(tested - 0.3 * mine) < 1
    largest = max(train.values(), key=len)
    counts = np.bincount(TRAIN.labels[largest], minlength=5) / len(largest)
    assert np.abs(counts - 0.2).max() < 0.06


def test_each_country_is_a_client_in_lower_case() -> None:
    train = known([0, 1, 0, 1], [2, 0, 2, 0])
    test = known([0, 0], [0, 2])
    names = ("Austria", "Kosovo", "Bosnia and Herzegovina")
    shares = by_country.Partition().assign(train, test, names, seed=0)
    # Kosovo has no image, so it is no client.
    assert {name: part.tolist() for name, part in shares[0].items()} == {
        "austria": [1, 3],
        "bosnia-and-herzegovina": [0, 2],
    }
    assert {name: part.tolist() for name, part in shares[1].items()} == {
        "austria": [0],
        "bosnia-and-herzegovina": [1],
    }


def test_a_country_with_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'Kosovo' has 1 images to test on but none to train on"):
        by_country.Partition().assign(known([0], [0]), known([0], [1]), ("Austria", "Kosovo"), 0)


def test_data_without_groups_can_not_be_split_by_country() -> None:
    with pytest.raises(DataError, match=r"no groups .* choose another partition"):
        by_country.Partition().assign(TRAIN, TEST, (), 0)


def test_two_groups_of_one_client_name_are_an_error() -> None:
    with pytest.raises(DataError, match=r"'sao-tome'.*rename"):
        by_country.Partition().assign(
            known([0, 0], [0, 1]), known([], []), ("São Tomé", "Sao-Tome"), 0
        )


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("Côte d'Ivoire", "cote-d-ivoire"),
        ("  T33UUP ", "t33uup"),
        ("x" * 80, "x" * 63),
        ("2018", "2018"),
    ],
)
def test_group_names_become_client_names(group: str, name: str) -> None:
    assert base.client_name(group) == name


def test_a_group_without_a_plain_letter_has_no_client_name() -> None:
    with pytest.raises(DataError, match="'中国' gives no client name"):
        base.client_name("中国")


@pytest.mark.parametrize("rule", [dirichlet.Partition, quantity.Partition])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_positive(rule: Any, alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        rule(clients=2, alpha=alpha)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": [0, 1], "b": [1]}, "each exactly once"),
        ({"a": [0]}, "gave 1 positions of 2"),
        ({"A b": [0, 1]}, "client name 'A b' must match"),
    ],
)
def test_a_rule_that_loses_or_repeats_examples_is_caught(
    shares: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        base.check({name: np.array(part) for name, part in shares.items()}, 2)


def test_groups_with_too_few_images_are_left_out_where_that_is_asked_for() -> None:
    train, test = known([0, 0, 0], [0, 0, 1]), known([0, 0], [0, 1])
    rule = by_country.Partition(min_examples=2)
    shares = rule.assign(train, test, ("Austria", "Kosovo"), seed=0)
    assert [list(share) for share in shares] == [["austria"], ["austria"]]
    base.check(shares[0], 3, leaves_out=rule.leaves_out)
    with pytest.raises(DataError, match="each exactly once"):
        base.check(shares[0], 3)
    assert not by_country.Partition().leaves_out
    with pytest.raises(DataError, match="lower min_examples"):
        by_country.Partition(min_examples=9).assign(train, test, ("Austria", "Kosovo"), seed=0)
