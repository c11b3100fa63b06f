"""Updates are combined while the cohort runs, and what comes of it is what the store would give."""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core import methods
from fedx_core.base import state
from fedx_core.base.errors import QuorumError
from fedx_core.clients.client import Place
from fedx_core.codec import dense
from fedx_core.rounds import dispatching, steps
from fedx_core.rounds.arriving import Arriving, Cohort
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.steps import Server
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport, ServerState, Update


@dataclass
class Odd(InProcess):
    """Carries a round in one thread: clients backwards, some lost, aggregation looked at.

    Args:
        lost: attempts that fail, as (client, attempt).
    """

    lost: frozenset[tuple[str, int]] = frozenset()
    seen: list[tuple[Any, ...]] = field(default_factory=list)

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        found = step(*arguments)
        if name == "aggregate":  # now, since payloads are forgotten at the end of the round
            server, before, *_ = arguments
            closed, aggregated = found
            self.seen.append((server, aggregated, steps.aggregate(server, before, closed)))
        return found

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        super().send(jobs[::-1], place)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if (job.client, job.attempt) in self.lost:
            return ClientFailure(client=job.client, attempt=job.attempt, reason="struck")
        return super().do(job, place)


MEDIAN = """
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedx_core.base import state
from fedx_core.methods import base


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    sees_each: ClassVar[bool] = True

    def settle(self, desk, before, total):
        raise AssertionError("asked for the sum of what it has to see one by one")

    def settle_each(self, desk, before, updates):
        models = [state.section(update.payload, "model") for update in updates]
        model = {n: torch.stack([m[n] for m in models]).median(0).values for n in models[0]}
        return replace(before, round_index=before.round_index + 1, model=model)
"""


@pytest.fixture
def median(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A method that has to see each update, as one file beside the others."""
    (tmp_path / "median.py").write_text(MEDIAN)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield
    sys.modules.pop("fedx_core.methods.median", None)


@pytest.mark.usefixtures("median")
@pytest.mark.parametrize("method", ["fedavg", "fedpaq", "fedlp", "fedadam", "local_only", "median"])
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
    runtime = Odd(lost=lost)
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
        def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
            super().send(jobs[::-1], place)

    monkeypatch.setattr(dense.Codec, "decode", counted)
    settings = tiny(method__name="fedavg", federation__rounds=1, codec__name="dense")
    list(federate(settings, bed.setting(), InProcess(1)))
    # One downlink before the round and one for scoring at clients after it, and three updates.
    assert len(decoded) == 5
    decoded.clear()
    list(federate(settings, bed.setting("backwards"), Backwards()))
    assert len(decoded) == 5 + 1  # one may wait, the other that came before its turn was let go


@dataclass
class Handing(InProcess):
    """Hands out finished updates of pretended clients, in the order that is asked for."""

    server: Server = field(kw_only=True)
    order: Sequence[int] = ()
    watch: Callable[[], None] = lambda: None

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        super().send([jobs[index] for index in self.order], place)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        self.watch()
        desk, index = self.server.desk, int(job.client[-2:])
        model = {n: v + index for n, v in desk.model.state_dict().items()}
        data, _ = desk.up.encode(state.as_section(model, "model"), desk.wire(None).up, {}, 0)
        return ClientReport(
            client=job.client, attempt=0, purpose="train",
            uplink=self.server.store.put(job.uplink_key, data),
            examples=index + 1, metrics={}, memory=None, seconds=0.0,
        )  # fmt: skip


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
    state_now = ServerState(round_index=1, model=server.desk.model.state_dict())
    names = [f"pretended-{index:02d}" for index in range(CLIENTS)]
    jobs = dispatching.jobs_for(server, state_now, names, 2, "train", {})
    runtime = Handing(server=server, order=order, watch=watch)
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

    mean = server.desk.method.settle_each(
        server.desk,
        ServerState(round_index=1, model=server.desk.model.state_dict()),
        arriving(server, bed, order, count),
    )
    # While the next one comes, those that wait are held alone: one for each worker.
    assert len(held) == CLIENTS
    assert max(held) <= 2
    weighted = sum(index * (index + 1) for index in range(CLIENTS)) / sum(range(1, CLIENTS + 1))
    name = "fc.bias"
    moved = mean.model[name].double() - server.desk.model.state_dict()[name].double()
    assert moved.tolist() == pytest.approx([weighted] * len(moved), rel=1e-6)


def test_too_few_clients_stop_a_method_that_never_looks_at_updates(bed: Bed) -> None:
    settings = tiny(method__name="local_only", federation__rounds=1, federation__attempts=1)
    with pytest.raises(QuorumError, match=r"2 of 3 clients reported, 3 needed.*struck"):
        list(federate(settings, bed.setting(), Odd(lost=frozenset({("client-02", 0)}))))
    assert history(open_store(bed.setting().place.store)) == []
