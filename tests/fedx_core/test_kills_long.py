"""The kills of test_kills.py in every round, and at a hundred moments that nobody has chosen."""

import random
import signal
import time
from pathlib import Path

import pytest

from bed import Bed, tiny
from coordinators import Point, coordinate, final_state, start
from fedx_core.base.config import ExperimentConfig
from fedx_core.rounds.federation import history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from long_tier import measured, times

pytestmark = pytest.mark.long

SETTINGS = {"federation__rounds": 4, "method__warmup_rounds": 2}


def run(settings: ExperimentConfig, setting: Setting, point: Point | None = None) -> int:
    process = start(coordinate, settings, setting, point)
    process.join(600)
    assert process.exitcode is not None
    return process.exitcode


def points(round_index: int) -> dict[str, Point]:
    """Name the points of one round, of four of which the second prunes."""
    at = f"{round_index:04d}"
    found = {
        "before open": Point("create", f"journal/{at}/open"),
        "after open": Point("create", f"journal/{at}/open", after=True),
        "amid dispatch": Point("put", f"downlink/{at}/", after=True),
        "after the first update": Point("create", f"uplink/{at}/.*report", after=True),
        "after the second update": Point("create", f"uplink/{at}/.*report", 2, after=True),
        "amid aggregation": Point("get", f"uplink/{at}/", 2),
        "before closed": Point("create", f"journal/{at}/closed"),
        "after closed": Point("create", f"journal/{at}/closed", after=True),
        "after the state": Point("put", "states/", round_index + 1, after=True),
        "after commit": Point("create", f"journal/{at}/commit", after=True),
        "amid tidying up": Point("delete", f"uplink/{at}/", 2),
    }
    if round_index == 2:
        found["amid the mask"] = Point("put", "pruning/", after=True)
    if round_index == 3:
        found["after the mask"] = Point("put", "masks-", after=True)
    return found


EVERY = {f"round {r}, {name}": point for r in (1, 2, 3) for name, point in points(r).items()}


@pytest.fixture(scope="module")
def unkilled(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The last state of a run that nobody has killed, and the seconds that it took."""
    bed = Bed(tiny_data, tmp_path_factory.mktemp("unkilled"))
    assert run(tiny(**SETTINGS), bed.setting("first")) == 0  # starts what processes are forked from
    began = time.monotonic()
    assert run(tiny(**SETTINGS), bed.setting()) == 0
    return final_state(bed.setting()), time.monotonic() - began


@pytest.mark.parametrize("name", EVERY)
def test_a_kill_in_any_round_changes_nothing(
    name: str, bed: Bed, unkilled: tuple[str, float]
) -> None:
    assert run(tiny(**SETTINGS), bed.setting(), EVERY[name]) == -signal.SIGKILL
    assert run(tiny(**SETTINGS), bed.setting()) == 0
    assert final_state(bed.setting()) == unkilled[0]


def test_kills_at_any_moment_change_nothing(bed: Bed, unkilled: tuple[str, float]) -> None:
    expected, seconds = unkilled
    draws = random.Random(1)
    kills = runs = 0
    while kills < times(100):
        setting = bed.setting(f"run-{runs}")
        runs += 1
        while True:
            server = start(coordinate, tiny(**SETTINGS), setting)
            server.join(draws.uniform(0.0, 1.2 * seconds))
            if server.exitcode is not None:
                assert server.exitcode == 0
                break
            server.kill()
            server.join()
            # One that had just ended may have ended well.
            kills += server.exitcode == -signal.SIGKILL
            if kills % 5 == 0:  # or a run might never come to its end
                assert run(tiny(**SETTINGS), setting) == 0
                break
        assert final_state(setting) == expected
        assert len(history(open_store(setting.place.store))) == 4
    measured("servers killed at any moment", kills=kills, runs=runs, runs_that_differ=0)
