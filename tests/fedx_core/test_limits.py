"""What settings are refused, and in which words."""

import math
import re

import pytest

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError


def refused(says: str) -> pytest.RaisesExc[ConfigError]:
    return pytest.raises(ConfigError, match=f"^{re.escape(says)}$")


def test_settings_that_share_a_limit_are_named_together_with_what_was_got() -> None:
    limits.at_least(1, rounds=1, attempts=7)
    with refused("rounds and attempts must be 1 or more, got 4 and 0"):
        limits.at_least(1, rounds=4, attempts=0)
    with refused("clip must be positive, got 0"):
        limits.positive(clip=0)


@pytest.mark.parametrize("interval", ["(0, 1)", "(0, 1]", "[0, 1)"])
def test_an_intervals_ends_belong_to_it_where_their_bracket_is_square(
    interval: limits.Interval,
) -> None:
    limits.within(interval, share=0.5)
    for end, inside in ((0.0, interval[0] == "["), (1.0, interval[-1] == "]")):
        if inside:
            limits.within(interval, share=end)
        else:
            with refused(f"share must lie in {interval}, got {end}"):
                limits.within(interval, share=end)
    for outside in (-0.1, 1.1):
        with refused(f"share must lie in {interval}, got {outside}"):
            limits.within(interval, share=outside)


def test_what_is_no_number_is_refused_by_every_limit() -> None:
    with pytest.raises(ConfigError):
        limits.at_least(0, rate=math.nan)
    with pytest.raises(ConfigError):
        limits.positive(rate=math.nan)
    with pytest.raises(ConfigError):
        limits.within("(0, 1)", rate=math.nan)


def test_unknown_names_are_told_what_there_is() -> None:
    limits.one_of(("layer", "global"), scope="global")
    with refused("scope must be layer or global, got 'both'"):
        limits.one_of(("layer", "global"), scope="both")
    with refused("rule must be one of a, b, c, got 'd'"):
        limits.one_of(("a", "b", "c"), rule="d")
