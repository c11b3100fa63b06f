import pytest

from fedx_core.base.errors import ConfigError
from fedx_core.pruning.schedule import Schedule


def events(schedule: Schedule, rounds: int = 30, *, rising: bool = True) -> dict[int, float]:
    found = {r: schedule.rate_after(r, rising=rising) for r in range(1, rounds + 1)}
    return {r: rate for r, rate in found.items() if rate is not None}


def test_one_event_takes_place_after_the_warm_up_is_completed() -> None:
    assert events(Schedule(0.9, 10)) == {10: 0.9}


def test_the_rate_rises_evenly_over_several_events() -> None:
    found = events(Schedule(0.9, 10, recompute_every=2, recompute_times=3))
    assert found == pytest.approx({10: 0.3, 12: 0.6, 14: 0.9})


def test_regrowth_uses_the_full_rate_each_time() -> None:
    schedule = Schedule(0.5, 4, recompute_every=3, recompute_times=2)
    assert events(schedule, rising=False) == {4: 0.5, 7: 0.5}


def test_a_rate_of_zero_prunes_nothing() -> None:
    assert events(Schedule(0.0, 10)) == {}


@pytest.mark.parametrize(
    "arguments", [(1.0, 10), (-0.1, 10), (0.5, 0), (0.5, 1, -1), (0.5, 1, 1, 0)]
)
def test_impossible_schedules_are_refused(arguments: tuple[float, int]) -> None:
    with pytest.raises(ConfigError):
        Schedule(*arguments)
