"""Runs whose S3 server, or the network before it, does what it should not; two servers of one run.

What a run comes to is the same in all cases, or it stops with an error that says what to do.
"""

import datetime
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from bed import Bed, tiny, tiny_resnet6
from coordinators import InProcesses, Point, coordinate, final_state, insist, start
from fault_proxy import Fault, FaultProxy
from fedx_core.base.errors import AlreadyExistsError, QuorumError, StoreError
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store

pytestmark = pytest.mark.integration


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that everybody asks instead of the S3 server, without botocore's pauses."""
    with FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        monkeypatch.setattr(
            "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01
        )
        monkeypatch.setattr("fedx_core.store.s3._PAUSE_SECONDS", 0.01)
        yield proxy


@pytest.fixture(scope="module")
def expected(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The last state of a run of two rounds on files."""
    setting = Bed(tiny_data, tmp_path_factory.mktemp("expected")).setting()
    list(federate(settings(), setting, InProcess(1)))
    return final_state(setting)


def settings(**more: Any) -> Any:
    """With ResNet6, of which an upload takes long enough to be met on its way."""
    return tiny_resnet6(**{"federation__rounds": 2, "method__warmup_rounds": 1, **more})


def on_s3(bed: Bed, s3: str, name: str) -> Setting:
    setting = bed.setting(name)
    return replace(setting, place=replace(setting.place, store=f"{s3}/{name}"))


def commits(proxy: FaultProxy) -> Counter[str]:
    """Count who has created the records that two servers race for."""
    return Counter(
        seen.request
        for seen in proxy.exchanges
        if seen.once and seen.status == 200 and seen.request.endswith(("/commit", "/closed"))
    )


def test_errors_delays_and_broken_connections_change_nothing(
    s3: str, bed: Bed, proxy: FaultProxy, expected: str
) -> None:
    proxy.faults = (
        Fault(kind="delay", rate=0.2, seconds=0.05),
        Fault(kind="error", rate=0.05),
        Fault(kind="error", rate=0.05, status=503, code="SlowDown"),
        Fault(kind="reset", rate=0.05, match="^PUT"),
        Fault(kind="lose", rate=0.05),
        Fault(kind="cut", rate=0.05, match="^GET"),
        Fault(kind="lose", times=2, match="^PUT .*/commit"),
        Fault(kind="error", times=1, match="^PUT .*/closed", status=409,
              code="ConditionalRequestConflict"),
    )  # fmt: skip
    setting = on_s3(bed, s3, "faulty")
    reports = list(federate(settings(), setting, InProcess(2)))
    assert final_state(setting) == expected
    assert [r.failures for r in reports] == [(), ()]
    assert [r.retry_bytes for r in reports] == [0, 0]
    # The rarer ones by luck; of these, each has happened.
    assert all(proxy.hits(fault) for fault in proxy.faults if fault.times or fault.rate > 0.1)
    assert set(commits(proxy).values()) == {1}
    assert len(history(open_store(setting.place.store))) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="down", match="PUT .*/0001/closed"), r"E_STORAGE.*network, then `fedx resume`"),
        (Fault(kind="error", match="PUT .*/0001/commit"), r"E_STORAGE.*server, then `fedx resume`"),
        (Fault(kind="cut", match="GET .*uplink/0001.*00.0$"), r"E_STORAGE.*5 times; .*network"),
        (Fault(kind="error", status=503, code="SlowDown", match="(PUT|GET) .*uplink"),
         r"E_QUORUM.*0 of 3.*E_STORAGE.*SlowDown"),
    ],
)  # fmt: skip
def test_an_outage_ends_in_a_clear_error_and_a_run_that_goes_on(
    fault: Fault, said: str, s3: str, bed: Bed, proxy: FaultProxy, expected: str
) -> None:
    setting = on_s3(bed, s3, f"outage-{fault.kind}-{fault.status}")
    proxy.faults = (fault,)
    with pytest.raises((StoreError, QuorumError)) as stopped:
        list(federate(settings(), setting, InProcess(1)))
    assert re.search(said, f"{stopped.value.code}: {stopped.value}")
    assert proxy.hits(fault) <= 40, "tries are bounded"
    proxy.faults = ()
    list(federate(settings(), setting, InProcess(1), resume=True))
    assert final_state(setting) == expected


def test_a_key_that_others_fight_over_for_good_is_an_error_and_not_a_lost_race(
    s3: str, proxy: FaultProxy
) -> None:
    conflict = Fault(kind="error", status=409, code="ConditionalRequestConflict", match="/fought")
    proxy.faults = (conflict,)
    store = open_store(f"{s3}/conflict")
    with pytest.raises(StoreError, match="ConditionalRequestConflict") as refused:
        store.create("journal/fought", b"1")
    assert not isinstance(refused.value, AlreadyExistsError)
    proxy.faults = ()
    store.create("journal/fought", b"1")


def test_a_clock_that_is_an_hour_off_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: ago)
    with pytest.raises(StoreError, match=r"RequestTimeTooSkewed.*set this machine's clock"):
        open_store(f"{s3}/skew").put("a", b"1")


def test_a_server_killed_on_s3_comes_to_the_bytes_of_an_unkilled_one(
    s3: str, bed: Bed, expected: str
) -> None:
    setting = on_s3(bed, s3, "killed")
    process = start(coordinate, settings(), setting, Point("get", "uplink/0002/client-01"))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    list(federate(settings(), setting, InProcess(1), resume=True))
    assert final_state(setting) == expected


def test_a_client_killed_amid_its_upload_to_s3_leaves_nothing(
    s3: str, bed: Bed, proxy: FaultProxy
) -> None:
    setting = on_s3(bed, s3, "client-killed")
    victim = InProcesses(victim="client-01", sending="uplink/0001/client-01.0")
    proxy.watch = victim.watch
    config = settings(federation__rounds=1, federation__min_reports=2, federation__attempts=1)
    (report,) = federate(config, setting, victim)
    assert [f.client for f in report.failures] == ["client-01"]
    assert "ended with -9" in report.failures[0].reason
    assert open_store(setting.place.store).read("uplink/0001/client-01.0") is None
    closed = Journal(open_store(setting.place.store)).closed(1)
    assert closed is not None
    assert [r.client for r in closed.reports] == ["client-00", "client-02"]


def test_of_two_servers_at_once_one_commits_each_round(
    s3: str, bed: Bed, proxy: FaultProxy, tmp_path: Path
) -> None:
    rounds = 20
    # Little to train: what costs time is what they race for.
    config = tiny(method__name="fedavg", federation__rounds=rounds, federation__participation=0.3)
    alone = bed.setting("alone")
    list(federate(config, alone, InProcess(1)))
    proxy.faults = (Fault(kind="delay", rate=0.5, seconds=0.03),)
    setting = on_s3(bed, s3, "raced")
    losses = [tmp_path / "first", tmp_path / "second"]
    servers = [start(insist, config, setting, path) for path in losses]
    try:
        for server in servers:
            server.join(300)
    finally:
        for server in servers:
            server.kill()
    assert [server.exitcode for server in servers] == [0, 0]
    # As the server has seen it: every record was created once, and by one of them.
    seen = commits(proxy)
    assert set(seen.values()) == {1}
    assert sum(request.endswith("/commit") for request in seen) == rounds + 1
    assert sum(request.endswith("/closed") for request in seen) == rounds
    lost = [path.read_text().split() if path.exists() else [] for path in losses]
    assert set(lost[0] + lost[1]) <= {"E_LOST_RACE", "E_RUN_EXISTS"}
    assert len(lost[0] + lost[1]) >= 2, "they have raced"
    assert final_state(setting) == final_state(alone)
    assert [r.uplink_bytes for r in history(open_store(setting.place.store))] == [
        r.uplink_bytes for r in history(open_store(alone.place.store))
    ]
