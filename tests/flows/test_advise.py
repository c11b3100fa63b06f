"""Advice: what fits into a budget, and a right choice on several of made-up points."""

import math
from typing import Any

import pytest
import yaml

from bed import ROOT
from fedx_core.base.errors import ConfigError, UnknownNameError
from flows.advise import candidates, choice
from flows.advise.choice import Tried
from flows.advise.costs import Budget, Course, Link, Round, budget_of

MIB = 2**20
ACCURACY = "overall_accuracy"


def course(first: int, later: int, compute: float = 0.0) -> Course:
    one, other = (Round(sent=2 * n, down=n, up=n, compute=compute) for n in (first, later))
    return Course(first=one, later=(other,))


@pytest.mark.parametrize(
    ("text", "sent", "seconds"),
    [
        ("50MiB", 50 * MIB, None), ("1.5 GB", 1_500_000_000, None), ("800kib", 819_200, None),
        ("90s", None, 90), ("30min", None, 1800), (" 2h ", None, 7200),
    ],
)  # fmt: skip
def test_a_budget_is_bytes_or_time(text: str, sent: int | None, seconds: float | None) -> None:
    found = budget_of(text)
    assert (found.sent, found.seconds) == (sent, seconds)


@pytest.mark.parametrize("text", ["", "50", "MiB", "-3MiB", "0s", "5 parsecs", "1e3MiB"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="as in 50MiB"):
        budget_of(text)


def test_a_round_takes_its_bytes_over_the_link_twice_the_latency_and_its_compute() -> None:
    one = Round(sent=0, down=10_000_000, up=1_000_000, compute=3.0)
    assert one.seconds(Link(down=80, up=8, latency=50)) == pytest.approx(1 + 1 + 0.1 + 3)
    assert one.seconds(None) == 3


def test_a_longer_run_takes_a_trials_later_rounds_in_their_order() -> None:
    first, whole, pruned = (Round(sent=n, down=n, up=0) for n in (9, 4, 1))
    found = Course(first=first, later=(whole, pruned)).rounds(7)
    assert [each.sent for each in found] == [9, 4, 4, 4, 1, 1, 1]
    assert Course(first=first, later=(whole, pruned)).rounds(1) == [first]


def test_as_many_rounds_fit_as_the_budget_holds_in_bytes_or_in_time() -> None:
    dense = course(first=5, later=10)
    assert dense.fitting(20, Budget(said="", sent=10 + 20 * 3), None) == 4
    assert dense.fitting(20, Budget(said="", sent=10 + 20 * 3 - 1), None) == 3
    assert dense.fitting(2, Budget(said="", sent=10**9), None) == 2
    assert dense.fitting(20, Budget(said="", sent=9), None) == 0
    # 10 bytes down and 10 up over 8 Mbit/s are 20 µs, so compute decides.
    slow, link = course(10, 10, compute=2.0), Link(down=8, up=8)
    assert slow.fitting(20, Budget(said="", seconds=10.001), link) == 5


def tried(name: str, sent: float, *scores: float, rounds: int = 20) -> Tried:
    low, high = choice.interval(scores, ACCURACY, 400)
    return Tried(
        name=name, rounds=rounds, trial_rounds=5, sent=sent, seconds=0.0, ratio=None,
        scores=scores, low=low, high=high,
    )  # fmt: skip


MADE_UP = {
    # name: (bytes of the first round, of each later one, score by rounds)
    "dense": (100, 100, lambda rounds: 0.80 * (1 - 0.5**rounds)),
    "coded": (0, 5, lambda rounds: 0.78 * (1 - 0.6**rounds)),
    "tiny": (0, 1, lambda rounds: 0.50 * (1 - 0.6**rounds)),
}


@pytest.mark.parametrize(
    ("sent", "best"), [(4100, "dense"), (300, "coded"), (8, "tiny"), (1000, "coded")]
)
def test_the_best_that_fits_is_chosen_and_what_is_dear_is_cut_or_left_out(
    sent: int, best: str
) -> None:
    budget, fit = Budget(said="", sent=sent), []
    for name, (first, later, score) in MADE_UP.items():
        rounds = course(first, later).fitting(20, budget, None)
        if rounds:
            fit.append(tried(name, course(first, later).rounds(rounds)[-1].sent, score(rounds)))
    # At 1000 bytes dense has five rounds and 77.5 %, coded all of its twenty and 78 %.
    assert choice.choose(fit, ACCURACY).name == best
    assert ("dense" in {one.name for one in fit}) == (sent >= 200)


def test_of_equal_scores_the_cheapest_is_chosen_and_one_that_diverged_never() -> None:
    equal = [tried("a", 9, 0.7), tried("b", 3, 0.7), tried("lost", 1, math.nan)]
    assert choice.choose(equal, ACCURACY).name == "b"
    assert choice.choose([tried("x", 1, 0.4), tried("y", 2, 0.9)], "loss").name == "x"


def test_cheaper_ones_within_the_interval_are_named_as_not_told_apart() -> None:
    best, near, far = tried("best", 100, 0.80), tried("near", 10, 0.77), tried("far", 1, 0.60)
    assert choice.not_told_apart([best, near, far], best, ACCURACY) == [near]
    assert choice.not_told_apart([best, tried("dear", 200, 0.79)], best, ACCURACY) == []


def test_the_interval_is_of_images_and_of_seeds() -> None:
    low, high = choice.interval([0.5], ACCURACY, 100)
    assert high is not None
    assert high - 0.5 == pytest.approx(1.96 * 0.5 / 10)
    assert low == pytest.approx(1 - high)
    wide, _ = choice.interval([0.4, 0.6], ACCURACY, 100)
    assert wide is not None
    student = 12.706 * math.sqrt(0.02) / math.sqrt(2)
    assert wide == pytest.approx(0.5 - math.hypot(student, 1.96 * 0.05))
    assert choice.interval([0.5], "micro_map", 100) == (None, None)
    said = " ".join(choice.uncertainty(tried("a", 1, 0.5), 9, ACCURACY, 400))
    for part in ("400 tuning images", "--seeds 3", "5 of 20 rounds", "The best of 9"):
        assert part in said


@pytest.mark.parametrize("rounds", [1, 2, 20])
def test_every_shipped_candidate_is_valid_at_any_length(rounds: int) -> None:
    plain = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = candidates.read()
    assert len({one.name for one in found}) == len(found) >= 9
    for one in found:
        settings = one.settings(plain, rounds, seed=4)
        settings.method.build("methods")
        assert (settings.federation.rounds, settings.seed) == (rounds, 4)
    (fedx,) = (one for one in found if one.name == "fedx-q0.5")
    built: Any = fedx.settings(plain, rounds, 1).method.build("methods")
    assert built.warmup_rounds == max(1, rounds // 2)


def test_a_list_is_tried_value_by_value_and_names_that_are_not_there_are_refused() -> None:
    assert [one.name for one in candidates.read(only=["fedavg"])] == [
        "fedavg-lr0.001", "fedavg-lr0.003",
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="did you mean 'feddst'"):
        candidates.read(only=["fedst"])
