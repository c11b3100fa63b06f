"""Updates are combined while the cohort runs, and what comes of it is what the store would give."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core import rounds, state
from fedx_core.arriving import Arriving, Cohort
from fedx_core.client import Place
from fedx_core.codec import dense
from fedx_core.errors import QuorumError
from fedx_core.federation import federate, history
from fedx_core.messages import ClientFailure, ClientJob, ClientReport, ServerState, Update
from fedx_core.rounds import Server
from fedx_core.runtime import InProcess, Outcome, attempt
from fedx_core.store import open_store


@dataclass
class Odd:
    """Carries a round in one thread: clients backwards, some lost, aggregation looked at.

    Args:
        lost: attempts that fail, as (client, attempt).
    """

    lost: frozenset[tuple[str, int]] = frozenset()
    workers: int = 1
    seen: list[tuple[Any, ...]] = field(default_factory=list)

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        found = step(*arguments)
        if name == "aggregate":  # now, since payloads are forgotten at the end of the round
            server, before, closed, _ = arguments
            self.seen.append((server, found, rounds.aggregate(server, before, closed)))
        return found

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        for job in reversed(jobs):
            if (job.client, job.attempt) in self.lost:
                yield ClientFailure(client=job.client, attempt=job.attempt, reason="struck")
            else:
                yield attempt(job, place)


@pytest.mark.parametrize("method", ["fedavg", "fedpaq", "fedlp", "fedadam", "local_only"])
@pytest.mark.parametrize(
    "lost",
    [frozenset(), frozenset({("client-00", 0)}), frozenset({("client-01", 0), ("client-01", 1)})],
)
def test_what_was_combined_as_it_came_is_what_the_stored_updates_give(
    method: str, lost: frozenset[tuple[str, int]], bed: Bed
) -> None:
    settings = tiny(
        method__name=method,
        federation__rounds=1, federation__attempts=2, federation__min_reports=1,
    )  # fmt: skip
    runtime = Odd(lost)
    (report,) = federate(settings, bed.setting(), runtime)
    assert [failure.client for failure in report.failures] == (
        ["client-01"] if ("client-01", 1) in lost else []
    )
    ((_, combined, stored),) = runtime.seen
    assert state.equal(combined.model, stored.model)
    assert state.equal(combined.memory, stored.memory)
    assert combined.round_index == stored.round_index == 1


def test_in_their_order_every_update_is_decoded_once(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    original = dense.Codec.decode

    def counted(self: dense.Codec, *arguments: Any) -> Any:
        decoded.append(1)
        return original(self, *arguments)

    class Backwards(InProcess):
        def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
            return super().run_cohort(jobs[::-1], place)

    monkeypatch.setattr(dense.Codec, "decode", counted)
    settings = tiny(method__name="fedavg", federation__rounds=1, codec__name="dense")
    list(federate(settings, bed.setting(), InProcess(1)))
    # One downlink before the round and one for scoring at clients after it, and three updates.
    assert len(decoded) == 5
    decoded.clear()
    list(federate(settings, bed.setting("backwards"), Backwards()))
    assert len(decoded) == 5 + 1  # one may wait, the other that came before its turn was let go


@dataclass
class Handing:
    """Hands out finished updates of pretended clients, in the order that is asked for."""

    server: Server
    order: Sequence[int]
    watch: Callable[[], None] = lambda: None
    workers: int = 1

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        return step(*arguments)

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        bench = self.server.bench
        for index in self.order:
            job = jobs[index]
            model = {n: v + index for n, v in bench.model.state_dict().items()}
            data = bench.codec.encode(state.as_section(model, "model"), bench.wire(None).up)
            yield ClientReport(
                client=job.client, attempt=0, purpose="train",
                uplink=self.server.store.put(job.uplink_key, data),
                examples=index + 1, metrics={}, memory=None, seconds=0.0,
            )  # fmt: skip
            self.watch()


CLIENTS = 12


@pytest.fixture
def server(bed: Bed) -> Server:
    runtime = Odd()
    settings = tiny(method__name="fedavg", federation__rounds=1)
    list(federate(settings, bed.setting(), runtime))
    found: Server = runtime.seen[0][0]
    return replace(found, workers=2)


def arriving(
    server: Server, bed: Bed, order: Sequence[int], watch: Callable[[], None] = lambda: None
) -> Arriving:
    state_now = ServerState(round_index=1, model=server.bench.model.state_dict())
    names = [f"pretended-{index:02d}" for index in range(CLIENTS)]
    jobs = rounds.jobs_for(server, state_now, names, 2, "train", {})
    runtime = Handing(server, order, watch)
    return Arriving(Cohort(server, runtime, bed.setting().place, jobs, state_now))


ORDERS = [
    list(range(CLIENTS)),
    list(reversed(range(CLIENTS))),
    [3, 0, 1, 11, 2, 10, 4, 6, 5, 9, 8, 7],
]


@pytest.mark.parametrize("order", ORDERS)
def test_updates_are_given_out_in_cohort_order_as_often_as_they_are_asked_for(
    order: list[int], server: Server, bed: Bed
) -> None:
    updates = arriving(server, bed, order)
    first = [(u.client, u.examples, state.digest(u.payload)) for u in updates]
    assert [examples for _, examples, _ in first] == list(range(1, CLIENTS + 1))
    assert [(u.client, u.examples, state.digest(u.payload)) for u in updates] == first
    assert len(updates) == CLIENTS
    reports = updates.closed().reports
    assert [report.client for report in reports] == [client for client, _, _ in first]


def test_who_asks_for_their_number_first_or_twice_at_once_gets_all_of_them(
    server: Server, bed: Bed
) -> None:
    counted = arriving(server, bed, ORDERS[2])
    assert len(counted) == CLIENTS
    assert len(list(counted)) == CLIENTS
    twice = arriving(server, bed, ORDERS[2])
    assert [(a.client, b.client) for a, b in zip(twice, twice, strict=True)] == [
        (f"pretended-{index:02d}",) * 2 for index in range(CLIENTS)
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_few_updates_are_held_however_many_come_before_their_turn(
    order: list[int], server: Server, bed: Bed
) -> None:
    held: list[int] = []
    gc.collect()

    def count() -> None:
        held.append(sum(type(one) is Update for one in gc.get_objects()))

    mean = server.bench.method.aggregate(
        ServerState(round_index=1, model=server.bench.model.state_dict()),
        arriving(server, bed, order, count),
        server.bench.info,
    )
    # While the next one comes, those that wait are held alone: one for each worker.
    assert len(held) == CLIENTS
    assert max(held) <= 2
    weighted = sum(index * (index + 1) for index in range(CLIENTS)) / sum(range(1, CLIENTS + 1))
    name = "fc.bias"
    moved = mean.model[name].double() - server.bench.model.state_dict()[name].double()
    assert moved.tolist() == pytest.approx([weighted] * len(moved), rel=1e-6)


def test_too_few_clients_stop_a_method_that_never_looks_at_updates(bed: Bed) -> None:
    settings = tiny(method__name="local_only", federation__rounds=1, federation__attempts=1)
    with pytest.raises(QuorumError, match=r"2 of 3 clients reported, 3 needed.*struck"):
        list(federate(settings, bed.setting(), Odd(frozenset({("client-02", 0)}))))
    assert history(open_store(bed.setting().place.store)) == []
