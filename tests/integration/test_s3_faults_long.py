"""Races and faults of test_s3_faults.py in full: with botocore's own pauses, and for long."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bed import Bed, tiny
from coordinators import final_state, insist, start
from fault_proxy import Fault, FaultProxy
from fedx_core.base.errors import QuorumError, StoreError
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from infra.stack import processes
from long_tier import measured, times

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


@pytest.fixture(scope="module")
def expected(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    setting = Bed(tiny_data, tmp_path_factory.mktemp("expected")).setting()
    list(federate(tiny(), setting, InProcess(1)))
    return final_state(setting)


def on_s3(bed: Bed, s3: str, name: str) -> Setting:
    setting = bed.setting(name)
    return replace(setting, place=replace(setting.place, store=f"{s3}/long-{name}"))


def persist(setting: Setting, settings: Any, tries: int = 60) -> int:
    """Go on with a run after each clear error, and say how many there were; others are failures."""
    for stops in range(tries):
        try:
            begun = Journal(open_store(setting.place.store)).run() is not None
            list(federate(settings, setting, InProcess(2), resume=begun))
            return stops
        except (StoreError, QuorumError):
            continue
    raise AssertionError(f"no end after {tries} tries")


@pytest.mark.parametrize("servers", [2, 5])
def test_of_several_servers_at_once_one_commits_each_round(
    servers: int, s3: str, bed: Bed, proxy: FaultProxy, tmp_path: Path
) -> None:
    rounds = times(200)
    config = tiny(method__name="fedavg", federation__rounds=rounds, federation__participation=0.3)
    alone = bed.setting("alone")
    list(federate(config, alone, InProcess(1)))
    proxy.faults = (Fault(kind="delay", rate=0.5, seconds=0.03),)
    setting = on_s3(bed, s3, f"raced-{servers}")
    losses = [tmp_path / f"server-{number}" for number in range(servers)]
    running = [start(insist, config, setting, path) for path in losses]
    try:
        for server in running:
            server.join(4 * 3600)
    finally:
        for server in running:
            server.kill()
    assert [server.exitcode for server in running] == [0] * servers
    created = Counter(
        seen.request for seen in proxy.exchanges
        if seen.once and seen.status == 200 and seen.request.endswith(("/commit", "/closed"))
    )  # fmt: skip
    assert set(created.values()) == {1}
    assert sum(request.endswith("/commit") for request in created) == rounds + 1
    assert final_state(setting) == final_state(alone)
    lost = sum(len(path.read_text().split()) for path in losses if path.exists())
    measured(f"{servers} servers at once", rounds=rounds, commits_a_round=1, races_lost=lost)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_errors_at_any_rate_end_in_the_same_bytes(
    rate: float, status: int, s3: str, bed: Bed, proxy: FaultProxy, expected: str
) -> None:
    code = "SlowDown" if status == 503 else "InternalError"
    proxy.faults = (Fault(kind="error", rate=rate, status=status, code=code),)
    setting = on_s3(bed, s3, f"errors-{rate}-{status}")
    stops = persist(setting, tiny(), tries=2 if rate < 0.1 else 200)
    proxy.faults = ()
    assert final_state(setting) == expected
    measured(f"HTTP {status} at {rate:.0%} of the requests", requests=len(proxy.exchanges),
             stops_and_resumes=stops)  # fmt: skip


FAULTS = {
    "2 s of latency": Fault(kind="delay", rate=0.1, seconds=2.0),
    "a reset amid a PUT": Fault(kind="reset", rate=0.1, match="^PUT"),
    "a reply lost after the write": Fault(kind="lose", rate=0.1, match="^PUT"),
    "a reply lost after each commit": Fault(kind="lose", match="^PUT .*/(commit|closed)", times=4),
    "an answer cut short": Fault(kind="cut", rate=0.1, match="^GET"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_network_that_breaks_things_changes_nothing(
    name: str, s3: str, bed: Bed, proxy: FaultProxy, expected: str
) -> None:
    proxy.faults = (FAULTS[name],)
    setting = on_s3(bed, s3, name.replace(" ", "-"))
    stops = persist(setting, tiny())
    assert final_state(setting) == expected
    assert proxy.hits(FAULTS[name])
    measured(name, requests=len(proxy.exchanges), hits=proxy.hits(FAULTS[name]),
             stops_and_resumes=stops)  # fmt: skip


def test_an_outage_of_half_a_minute_changes_nothing(
    s3: str, bed: Bed, proxy: FaultProxy, expected: str
) -> None:
    setting = on_s3(bed, s3, "outage")
    rounds = federate(tiny(), setting, InProcess(2))
    next(rounds)
    rounds.close()
    proxy.faults = (Fault(kind="down"),)
    threading.Timer(30, lambda: setattr(proxy, "faults", ())).start()
    stops = 0
    while True:
        try:
            list(federate(tiny(), setting, InProcess(2), resume=True))
            break
        except (StoreError, QuorumError):
            stops += 1
            time.sleep(1)
    assert final_state(setting) == expected
    measured("an outage of 30 s", stops_and_resumes=stops)


def test_an_s3_server_that_is_killed_loses_nothing_that_it_has_taken(
    live: Any, s3: str, bed: Bed, proxy: FaultProxy, expected: str
) -> None:
    setting = on_s3(bed, s3, "weed-killed")
    rounds = federate(tiny(), setting, InProcess(2))
    next(rounds)
    rounds.close()
    killed = processes.marked(live.stack.var)["s3"]
    for process in killed:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(killed, 30)
    live.up("s3")
    list(federate(tiny(), setting, InProcess(2), resume=True))
    assert final_state(setting) == expected
    measured("an S3 server killed between rounds", committed_rounds_lost=0)
