"""Threads of this process: how many are under way, and what becomes of those that are dropped."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.wire.messages import PROTOCOL, ClientFailure, ClientJob, Ref

NOWHERE = Place(store="", shards="", memory="")


@dataclass
class Held(InProcess):
    """Clients that end once they may, all with a failure."""

    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    most: int = 0
    may_end: dict[str, threading.Event] = field(default_factory=dict)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        self.begun.append(job.client)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        if job.client in self.may_end:
            assert self.may_end[job.client].wait(60)
        self.ended.append(job.client)
        return ClientFailure(client=job.client, attempt=job.attempt, reason="E_X: no")


@pytest.fixture
def slow() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def job(client: str, deadline: float) -> ClientJob:
    return ClientJob(
        protocol=PROTOCOL, run="run", round_index=1, client=client, attempt=0, seed=1,
        purpose="train", plan=Ref("plans/x", "0" * 64, 1), base=None, mask=None, schema="",
        memory=None, uplink_key=f"uplink/0001/{client}.0", deadline=deadline,
    )  # fmt: skip


def heard(carrier: Held, wanted: int) -> list[str]:
    clients: list[str] = []
    while len(clients) < wanted:
        clients += [outcome.client for outcome in carrier.heard(60.0)]
    return clients


@pytest.mark.parametrize("deadline", [0.0, 60.0])
def test_no_more_clients_are_under_way_than_there_are_workers(deadline: float) -> None:
    carrier = Held(2)
    names = [f"client-{index:02d}" for index in range(9)]
    carrier.send([job(name, deadline) for name in names[:5]], NOWHERE)
    clients = heard(carrier, 1)
    carrier.send([job(name, deadline) for name in names[5:]], NOWHERE)
    clients += heard(carrier, 9 - len(clients))
    assert sorted(clients) == names
    assert carrier.most <= 2


def test_a_late_client_is_left_to_its_thread_and_keeps_no_worker(slow: threading.Event) -> None:
    carrier = Held(1, may_end={"slow": slow})
    carrier.send([job("slow", 60.0), job("queued", 60.0)], NOWHERE)
    assert not carrier.heard(0.0)
    carrier.drop([job("slow", 60.0), job("queued", 60.0)])
    carrier.send([job("next", 60.0)], NOWHERE)
    assert heard(carrier, 1) == ["next"]
    assert carrier.ended == ["next"]
    assert "queued" not in carrier.begun
    slow.set()
    assert not carrier.heard(0.0)


def test_a_client_without_a_deadline_is_waited_for_when_it_is_dropped(
    slow: threading.Event,
) -> None:
    carrier = Held(2, may_end={"slow": slow})
    carrier.send([job("slow", 0.0), job("quick", 0.0)], NOWHERE)
    assert heard(carrier, 1) == ["quick"]
    dropping = threading.Thread(target=carrier.drop, args=([job("slow", 0.0)],))
    dropping.start()
    assert dropping.is_alive()
    slow.set()
    dropping.join(60)
    assert carrier.ended == ["quick", "slow"]
    assert not carrier.heard(0.0)
