"""Servers and clients that are killed, at named points, by ``kill -9``."""

import signal
from pathlib import Path
from typing import Any

import pytest

import final_hashes
from bed import Bed, tiny, tiny_resnet6
from coordinators import InProcesses, Point, coordinate, final_state, objects, start
from fedx_core.base.config import ExperimentConfig
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store

POINTS = {
    "before open": Point("create", "journal/0002/open"),
    "after open": Point("create", "journal/0002/open", after=True),
    "amid dispatch": Point("put", "downlink/", 2, after=True),
    "after the first update": Point("create", "uplink/0002/.*report", 1, after=True),
    "after the second update": Point("create", "uplink/0002/.*report", 2, after=True),
    "amid aggregation": Point("get", "uplink/0002/", 2),
    "before closed": Point("create", "journal/0002/closed"),
    "amid the write of closed": Point("link", "journal/0002/closed$"),
    "after closed": Point("create", "journal/0002/closed", after=True),
    "amid the mask": Point("put", "pruning/", after=True),
    "after the state": Point("put", "states/", 3, after=True),
    "after commit": Point("create", "journal/0002/commit", after=True),
    "amid tidying up": Point("delete", "uplink/0002/", 2),
    "after the mask": Point("put", "masks-", after=True),
}


def run(settings: ExperimentConfig, setting: Setting, point: Point | None = None) -> int:
    process = start(coordinate, settings, setting, point)
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def unkilled(
    tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, int]]:
    """The last state of a run that nobody has killed, and all that it leaves behind."""
    setting = Bed(tiny_data, tmp_path_factory.mktemp("unkilled")).setting()
    assert run(tiny_resnet6(), setting) == 0
    final_hashes.check("fedx", setting)
    return final_state(setting), objects(setting)


@pytest.mark.parametrize("name", POINTS)
def test_a_server_killed_at_a_named_point_comes_to_the_bytes_of_an_unkilled_one(
    name: str, bed: Bed, unkilled: tuple[str, dict[str, int]]
) -> None:
    assert run(tiny_resnet6(), bed.setting(), POINTS[name]) == -signal.SIGKILL
    assert run(tiny_resnet6(), bed.setting()) == 0
    assert (final_state(bed.setting()), objects(bed.setting())) == unkilled


CLIENT: dict[str, Point | None] = {
    "before it trains": Point("get", "downlink/"),
    "while it trains": None,
    "amid its upload": Point("link", r"uplink/0001/client-01\.0$"),
    "between upload and report": Point("create", r"uplink/0001/client-01\.0$", after=True),
}
ONE: dict[str, Any] = {"federation__rounds": 1}


@pytest.fixture(scope="module")
def expected(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Last states of a round with all three clients, and of one that client-01 takes no part in."""
    found = {}
    bed = Bed(tiny_data, tmp_path_factory.mktemp("expected"))
    list(federate(tiny(**ONE), bed.setting("whole"), InProcess(1)))
    found["whole"] = final_state(bed.setting("whole"))
    without = InProcesses(victim="client-01", point=Point("get", "plans/"))
    list(federate(tiny(federation__min_reports=2, federation__attempts=1, **ONE),
                  bed.setting("without"), without))  # fmt: skip
    found["without"] = final_state(bed.setting("without"))
    return found


@pytest.mark.parametrize("name", CLIENT)
def test_a_round_closes_without_a_killed_client_if_enough_others_report(
    name: str, bed: Bed, expected: dict[str, str]
) -> None:
    settings = tiny(federation__min_reports=2, federation__attempts=1, **ONE)
    (report,) = federate(
        settings, bed.setting(), InProcesses(victim="client-01", point=CLIENT[name])
    )
    assert [f.client for f in report.failures] == ["client-01"]
    assert report.failures[0].reason == "its process ended with -9"
    closed = Journal(open_store(bed.setting().place.store)).closed(1)
    assert closed is not None
    assert [r.client for r in closed.reports] == ["client-00", "client-02"]
    assert final_state(bed.setting()) == expected["without"]


@pytest.mark.parametrize("name", ["while it trains", "between upload and report"])
def test_a_killed_client_that_is_tried_again_counts_once(
    name: str, bed: Bed, expected: dict[str, str]
) -> None:
    settings = tiny(federation__attempts=2, **ONE)
    (report,) = federate(
        settings, bed.setting(), InProcesses(victim="client-01", point=CLIENT[name])
    )
    assert report.failures == ()
    closed = Journal(open_store(bed.setting().place.store)).closed(1)
    assert closed is not None
    assert [(r.client, r.attempt) for r in closed.reports] == [
        ("client-00", 0), ("client-01", 1), ("client-02", 0),
    ]  # fmt: skip
    assert report.retry_bytes == report.traffic["client-00"].downlink
    assert final_state(bed.setting()) == expected["whole"]
