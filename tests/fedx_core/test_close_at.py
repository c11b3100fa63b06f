"""Rounds that close at the first updates that count."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core.base.errors import ConfigError, QuorumError
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport

AT_TWO = {"federation__close_at": 2, "federation__rounds": 2, "method__warmup_rounds": 1}


@dataclass
class Ordered(InProcess):
    """One client after another, in an order of its own; some are lost."""

    order: Sequence[int] = (0, 1, 2)
    lost: Sequence[str] = ()
    trained: list[str] = field(default_factory=list)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        super().send(sorted(jobs, key=lambda job: self.order.index(int(job.client[-2:]))), place)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if job.purpose == "train":
            self.trained.append(job.client)
            if job.client in self.lost:
                return ClientFailure(client=job.client, attempt=job.attempt, reason="E_X: no")
        return super().do(job, place)


def run(bed: Bed, name: str, carrier: InProcess, **settings: Any) -> list[RoundReport]:
    return list(federate(tiny(**settings), bed.setting(name), carrier))


def states(bed: Bed, name: str) -> list[str]:
    commits = Journal(open_store(bed.setting(name).place.store)).commits()
    return [commit.state.sha256 for commit in commits]


def test_whoever_comes_after_the_last_that_counts_is_as_a_lost_client(bed: Bed) -> None:
    reports = run(bed, "closed", Ordered(order=(2, 0, 1)), **AT_TWO)
    for report in reports:
        (failure,) = report.failures
        assert (failure.client, failure.attempt, failure.late) == ("client-01", 0, True)
        assert "as many as a round takes (federation.close_at)" in failure.reason
        assert set(report.client_metrics) == {"client-00", "client-02"}
    assert [report.pruned for report in reports] == [True, False]
    lost = {**AT_TWO, "federation__close_at": 0, "federation__min_reports": 2}
    run(bed, "lost", Ordered(lost=["client-01"]), **lost, federation__attempts=1)
    # Whoever came first: sums are in the order of the cohort.
    assert states(bed, "closed")[1:] == states(bed, "lost")[1:]


def test_clients_that_are_lost_make_room_for_others_and_nobody_trains_in_vain(bed: Bed) -> None:
    carrier = Ordered(lost=["client-00"])
    (report,) = run(bed, "run", carrier, **{**AT_TWO, "federation__rounds": 1})
    assert set(report.client_metrics) == {"client-01", "client-02"}
    assert carrier.trained == ["client-00", "client-01", "client-02"]
    few = Ordered()
    run(bed, "few", few, **{**AT_TWO, "federation__rounds": 1})
    assert few.trained == ["client-00", "client-01"]


def test_a_round_that_can_no_longer_have_enough_stops_the_run(bed: Bed) -> None:
    carrier = Ordered(lost=["client-00", "client-01"])
    with pytest.raises(QuorumError, match=r"1 of 3 clients reported, 2 needed"):
        run(bed, "run", carrier, **AT_TWO)


def test_a_closed_round_is_the_same_after_a_resume(bed: Bed) -> None:
    run(bed, "whole", Ordered(order=(2, 0, 1)), **AT_TWO)
    going = federate(tiny(**AT_TWO), bed.setting("parts"), Ordered(order=(2, 0, 1)))
    next(going)
    going.close()
    resumed = federate(tiny(**AT_TWO), bed.setting("parts"), Ordered(order=(2, 0, 1)), resume=True)
    assert [report.round_index for report in resumed] == [2]
    assert states(bed, "parts") == states(bed, "whole")


def test_a_round_does_not_wait_for_a_slow_client_and_its_update_is_kept_and_never_counted(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, original = threading.Event(), client._send

    def slow(store: Any, job: ClientJob, *rest: Any) -> Any:
        if job.client == "client-01" and job.purpose == "train":
            released.wait(120)
        return original(store, job, *rest)

    monkeypatch.setattr(client, "_send", slow)
    alone = {**AT_TWO, "federation__rounds": 1, "federation__round_timeout": 100.0}
    (report,) = run(bed, "run", InProcess(3), **alone)
    assert [(f.client, f.late) for f in report.failures] == [("client-01", True)]
    assert report.failures[0].reason.startswith("closed: ")
    store = open_store(bed.setting("run").place.store)
    closed = Journal(store).closed(1)
    released.set()
    assert closed is not None
    assert [r.client for r in closed.reports] == ["client-00", "client-02"]
    assert Journal(store).closed(1) == closed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"federation__close_at": -1}, r"federation\.close_at must be 0 or more, got -1"),
        (
            {"federation__close_at": 1, "federation__min_reports": 2},
            r"close_at is 1 and min_reports is 2: .*raise close_at, or lower min_reports",
        ),
    ],
)
def test_closings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny(**settings)


@pytest.mark.parametrize(("share", "asked"), [(1.0, 3), (0.5, 2)])
def test_more_than_a_round_asks_are_refused_before_it_begins(
    share: float, asked: int, bed: Bed
) -> None:
    settings = {"federation__close_at": asked + 1, "federation__participation": share}
    with pytest.raises(ConfigError, match=rf"close_at is {asked + 1}, and a round asks {asked} "):
        run(bed, "run", InProcess(1), **settings)
    assert open_store(bed.setting("run").place.store).read("run.json") is None
