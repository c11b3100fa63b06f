"""Quorum, deadline, grace, late clients and retries: what counts, and what never does."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bed import Bed, tiny
from fedx_core.base.errors import ConfigError, QuorumError
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds.asking import late
from fedx_core.rounds.carrier import InProcess, Outcome, attempt
from fedx_core.rounds.federation import federate
from fedx_core.rounds.retention import collect_garbage
from fedx_core.store import Store, open_store
from fedx_core.wire.messages import ClientFailure, ClientJob


@dataclass
class Scripted(InProcess):
    """Does with each try of a client as a script says, in an order that it says too."""

    script: dict[str, list[str]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    tried: list[tuple[str, int]] = field(default_factory=list)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        super().send(sorted(jobs, key=lambda job: self.order[int(job.client[-2:])]), place)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = attempt(job, place)
        if job.purpose != "train":
            return outcome
        self.tried.append((job.client, job.attempt))
        said = self.script[job.client][job.attempt]
        if said == "fails":
            return ClientFailure(client=job.client, attempt=job.attempt, reason="E_X: no")
        # Who is late has stored an update all the same.
        return late(job) if said == "is late" else outcome


tries = st.lists(st.sampled_from(["reports", "fails", "is late"]), min_size=2, max_size=2)
number = itertools.count()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    scripts=st.lists(tries, min_size=3, max_size=3),
    order=st.permutations(list(range(3))),
    quorum=st.integers(0, 3),
)
def test_whoever_reports_in_time_counts_once_and_nobody_else(
    scripts: list[list[str]], order: list[int], quorum: int, bed: Bed
) -> None:
    script = dict(zip(("client-00", "client-01", "client-02"), scripts, strict=True))
    runtime = Scripted(script=script, order=order)
    setting = bed.setting(f"run-{next(number)}")
    config = tiny(federation__rounds=1, federation__min_reports=quorum, federation__attempts=2)
    counts = {c: said.index("reports") for c, said in script.items() if in_time(said)}
    enough = len(counts) >= (quorum or 3) and counts
    if enough:
        list(federate(config, setting, runtime))
        closed = Journal(open_store(setting.place.store)).closed(1)
        assert closed is not None
        assert {r.client: r.attempt for r in closed.reports} == counts
        assert [r.client for r in closed.reports] == sorted(counts)
        assert {f.client for f in closed.failures} == set(script) - set(counts)
    else:
        with pytest.raises(QuorumError, match=f"{len(counts)} of 3 clients reported"):
            list(federate(config, setting, runtime))
        assert Journal(open_store(setting.place.store)).closed(1) is None
    assert sorted(runtime.tried) == sorted(
        (c, n) for c, said in script.items() for n in range(tried(said))
    )


def in_time(said: list[str]) -> bool:
    return said[0] == "reports" or said == ["fails", "reports"]


def tried(said: list[str]) -> int:
    return 2 if said[0] == "fails" else 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, threading.Event]]:
    """Clients have trained, and send what they have only once their events are set."""
    events = {name: threading.Event() for name in ("client-01", "client-02")}
    original = client._send

    def wait(store: Store, job: ClientJob, *rest: Any) -> Any:
        if job.client in events:
            events[job.client].wait(120)
        return original(store, job, *rest)

    monkeypatch.setattr(client, "_send", wait)
    yield events
    for event in events.values():
        event.set()


def until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_round_that_lacks_its_quorum_at_the_deadline_waits_for_it_and_no_longer(
    bed: Bed, held: dict[str, threading.Event]
) -> None:
    config = tiny(
        federation__rounds=1,
        federation__min_reports=2,
        federation__round_timeout=0.5,
        federation__grace=300.0,
    )
    threading.Timer(1.5, held["client-01"].set).start()
    (report,) = federate(config, bed.setting(), InProcess(3))
    assert [(f.client, f.attempt, f.late) for f in report.failures] == [("client-02", 0, True)]
    assert set(report.client_metrics) == {"client-00", "client-01"}


def test_a_late_update_is_kept_for_people_to_look_at_and_never_counted(
    bed: Bed, held: dict[str, threading.Event]
) -> None:
    config = tiny(
        federation__rounds=1,
        federation__min_reports=1,
        federation__round_timeout=2.0,
        federation__grace=300.0,
    )
    held["client-01"].set()
    runtime, store = InProcess(3), open_store(bed.setting().place.store)
    (report,) = federate(config, bed.setting(), runtime)
    assert [f.client for f in report.failures] == ["client-02"]
    closed = Journal(store).closed(1)
    held["client-02"].set()
    until(lambda: store.read("uplink/0001/client-02.0.report"))
    assert Journal(store).closed(1) == closed
    assert list(federate(config, bed.setting(), runtime, resume=True)) == []
    assert store.read("uplink/0001/client-02.0")
    assert store.read("uplink/0001/client-01.0") is None
    collect_garbage(bed.setting().place, keep_states=3)
    assert store.read("uplink/0001/client-02.0") is None
    assert store.read("uplink/0001/client-02.0.report") is None


def test_a_grace_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"federation\.grace must be 0 or more"):
        tiny(federation__grace=-1.0)
