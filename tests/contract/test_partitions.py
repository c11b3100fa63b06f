"""What every partition rule must do, whatever its idea."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core.base import plugins
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.partition import base
from fedx_core.partition.base import CLIENT_NAME, Known, Shares

COUNTRIES = ("Austria", "Belgium", "Finland")

# Enough to build each rule; a new rule with other required parameters adds its line here.
PARAMETERS = {
    "iid": {"clients": 3},
    "quantity": {"clients": 3, "alpha": 0.5, "min_examples": 2},
    "dirichlet": {"clients": 3, "alpha": 0.3, "min_examples": 2},
    "by_country": {},
}
RULES = plugins.names("partition")


def known(seed: int, size: int, multi: bool, groups: int = 3) -> Known:
    generator = np.random.default_rng(seed)
    labels = (
        (generator.random((size, 5)) < 0.3).astype(np.uint8)
        if multi
        else generator.integers(0, 4, size)
    )
    # Every group occurs, so that each can be a client.
    origins = np.concatenate([np.arange(groups), generator.integers(0, groups, size)])[:size]
    return Known(labels, generator.permutation(origins).astype(np.int16))


def assign(
    rule: str, train: Known, test: Known, seed: int = 0, **changes: object
) -> tuple[Shares, Shares]:
    partition: base.Partition = plugins.build("partition", rule, {**PARAMETERS[rule], **changes})
    return partition.assign(train, test, COUNTRIES, seed)


@pytest.mark.parametrize("rule", RULES)
@given(
    size=st.integers(6, 120), test_size=st.integers(0, 60), multi=st.booleans(), seed=st.integers(0)
)
@settings(max_examples=25, deadline=None)
def test_every_example_goes_to_exactly_one_client(
    rule: str, size: int, test_size: int, multi: bool, seed: int
) -> None:
    train, test = known(seed, size, multi), known(seed + 1, test_size, multi)
    shares = assign(rule, train, test, seed)
    for share, split in zip(shares, (train, test), strict=True):
        held = [index for part in share.values() for index in part.tolist()]
        assert sorted(held) == list(range(len(split)))
        for name, part in share.items():
            assert CLIENT_NAME.fullmatch(name)
            assert part.dtype == np.int64
            assert part.tolist() == sorted(part.tolist())
    assert list(shares[0]) == list(shares[1])
    assert all(len(part) for part in shares[0].values())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("multi", [False, True])
def test_the_same_seed_gives_the_same_shares_and_arguments_are_unchanged(
    rule: str, multi: bool
) -> None:
    train, test = known(1, 90, multi), known(2, 40, multi)
    copies = [array.copy() for array in (train.labels, train.groups, test.labels, test.groups)]
    first, second = (assign(rule, train, test, seed=7) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    for copy, array in zip(
        copies, (train.labels, train.groups, test.labels, test.groups), strict=True
    ):
        assert np.array_equal(copy, array)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"by_country"}))
def test_another_seed_gives_other_shares(rule: str) -> None:
    train, test = known(1, 90, False), known(2, 40, False)
    one, other = (assign(rule, train, test, seed=seed)[0] for seed in (1, 2))
    assert any(not np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"by_country"}))
def test_more_clients_than_examples_is_an_error_that_says_what_to_change(rule: str) -> None:
    with pytest.raises(DataError, match=r"4 training examples are too few for 5 clients.*fewer"):
        assign(rule, known(1, 4, False), known(2, 4, False), clients=5)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"by_country"}))
def test_clients_have_numbers_for_names(rule: str) -> None:
    shares, _ = assign(rule, known(1, 900, False), known(2, 40, False), clients=101)
    assert list(shares)[:2] == ["client-000", "client-001"]
    assert list(shares)[-1] == "client-100"


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"by_country"}))
def test_no_clients_at_all_is_an_error(rule: str) -> None:
    with pytest.raises(ConfigError, match="clients must be 1 or more, got 0"):
        plugins.build("partition", rule, {**PARAMETERS[rule], "clients": 0})


@pytest.mark.parametrize("rule", RULES)
def test_an_unknown_parameter_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="no parameter 'colour'"):
        plugins.build("partition", rule, {**PARAMETERS[rule], "colour": 1})


@pytest.mark.parametrize("rule", RULES)
def test_the_check_after_a_rule_finds_nothing_to_say(rule: str) -> None:
    train, test = known(1, 90, True), known(2, 40, True)
    for share, split in zip(assign(rule, train, test), (train, test), strict=True):
        base.check(share, len(split))
