"""Updates that come after their round has closed, and count in a later one."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch

from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import StateDict
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.clients.plan import read_plan, set_up
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Closed, Late
from fedx_core.rounds import retention
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.rounds.rollback import roll_back
from fedx_core.rounds.staleness import discount
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport, ServerState

T = TypeVar("T")
LATE = {
    "federation__close_at": 2,
    "federation__staleness": 2,
    "federation__rounds": 4,
    "federation__keep_states": 1,
    "federation__clip": "none",
    "method__warmup_rounds": 1,
    "training__batch_norm": "aggregate",
}
"""On one worker: who is third waits until the next round, and is the first there."""


class KilledError(BaseException):
    """What ends a server, wherever it is."""


@dataclass
class Dying(InProcess):
    """A carrier under which the server dies at a step of a round, before it or after it."""

    step: str = ""
    at: int = 0
    after: bool = False
    begun: int = 0
    jobs: list[tuple[str, int]] = field(default_factory=list)

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        self.begun += name == "dispatch"
        dies = (name, self.begun) == (self.step, self.at)
        if dies and not self.after:
            raise KilledError
        found = super().server_step(name, step, *arguments)
        if dies:
            raise KilledError
        return found

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if job.purpose == "train":
            self.jobs.append((job.client[-2:], job.round_index))
        return super().do(job, place)


def run(
    bed: Bed, name: str = "run", carrier: InProcess | None = None, **settings: Any
) -> list[RoundReport]:
    settings = LATE | settings
    return list(federate(tiny(**settings), bed.setting(name), carrier or InProcess(1)))


def resume(bed: Bed, name: str, **settings: Any) -> list[RoundReport]:
    settings = LATE | settings
    return list(federate(tiny(**settings), bed.setting(name), InProcess(1), resume=True))


def journal_of(bed: Bed, name: str = "run") -> Journal:
    return Journal(open_store(bed.setting(name).place.store))


def closings(bed: Bed, name: str = "run") -> list[Closed]:
    journal = journal_of(bed, name)
    return [c for n in range(1, 5) if (c := journal.closed(n)) is not None]


def states(bed: Bed, name: str = "run") -> list[str]:
    return [commit.state.sha256 for commit in journal_of(bed, name).commits()]


def ages(closed: Closed) -> dict[str, int]:
    return {name[-2:]: closed.round_index - late.round_index for name, late in closed.late.items()}


def test_an_old_updates_weight_falls_with_the_root_of_its_age() -> None:
    assert [discount(age) for age in (0, 3, 8)] == [1.0, 0.5, pytest.approx(1 / 3)]


def test_who_is_late_counts_in_the_next_round_and_is_asked_for_nothing_until_then(
    bed: Bed,
) -> None:
    carrier = Dying(1)
    reports = run(bed, carrier=carrier)
    assert carrier.jobs == [
        ("00", 1), ("01", 1), ("02", 1), ("00", 2), ("01", 2), ("00", 3), ("02", 3), ("00", 4),
    ]  # fmt: skip
    found = closings(bed)
    assert [ages(closed) for closed in found] == [{}, {"02": 1}, {"01": 1}, {"02": 1}]
    assert [[r.client[-2:] for r in c.reports] for c in found] == [
        ["00", "01"], ["00", "02"], ["00", "01"], ["00", "02"],
    ]  # fmt: skip
    assert found[1].late == {"client-02": Late(round_index=1, discount=discount(1))}
    assert [report.cohort for report in reports] == [
        ("client-00", "client-01", "client-02"), ("client-00", "client-01"),
        ("client-00", "client-02"), ("client-00", "client-01"),
    ]  # fmt: skip
    second = reports[1]
    assert second.client_metrics["client-02"]["staleness"] == 1
    assert "staleness" not in second.client_metrics["client-00"]
    assert (second.method_metrics["staleness"], second.method_metrics["late_updates"]) == (0.5, 1)
    # What it fetched was charged in its own round, and what it sent in the one that received it.
    assert reports[0].traffic["client-02"].retry == reports[0].traffic["client-00"].downlink
    assert reports[0].traffic["client-02"].uplink == 0
    uplink = next(r.uplink for r in found[1].reports if r.client == "client-02")
    assert uplink is not None
    assert second.traffic["client-02"].uplink == second.traffic["client-02"].total == uplink.size


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be forgotten, so that a test can look at it."""
    monkeypatch.setattr("fedx_core.rounds.federation.forget", lambda *_, **__: None)


def states_of(bed: Bed) -> list[ServerState]:
    journal = journal_of(bed)
    return [
        checkpoint.unpack_server_state(journal.store.get(commit.state))
        for commit in journal.commits()
    ]


@pytest.mark.usefixtures("kept")
def test_a_round_is_the_weighted_mean_of_changes_also_across_a_pruning(bed: Bed) -> None:
    reports = run(bed)
    assert [report.pruned for report in reports] == [True, False, False, False]
    store, states = journal_of(bed).store, states_of(bed)
    desk = set_up(read_plan(store.get(journal_of(bed).commits()[0].plan)))

    def sent(closed: Closed) -> Iterator[tuple[float, ServerState, StateDict]]:
        for report in closed.reports:
            late = closed.late.get(report.client)
            age = closed.round_index - late.round_index if late else 0
            began = states[closed.round_index - age - 1]
            assert report.uplink is not None
            payload = desk.up.decode(store.get(report.uplink), desk.wire(began.mask).up)
            yield report.examples * (1 + age) ** -0.5, began, state.section(payload, "model")

    for closed in closings(bed)[1:]:
        assert closed.late
        before, after = states[closed.round_index - 1], states[closed.round_index]
        alive = desk.method.support(desk, before.mask, "slices")
        for name, value in after.model.items():
            if not value.is_floating_point():
                continue
            mean, whole = torch.zeros_like(value, dtype=torch.float64), 0.0
            for weight, began, learned in sent(closed):
                if name in desk.graph.parameters:
                    change = learned[name].double() - began.model[name].double()
                    mean += weight * (before.model[name].double() + change)
                else:
                    mean += weight * learned[name].double()
                whole += weight
            expected = torch.where(alive.get(name, torch.tensor(True)), mean / whole, 0.0)
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [2, 3])
@pytest.mark.parametrize("step", ["dispatch", "aggregate", "relevance", "evaluate", "commit"])
def test_a_killed_server_ends_with_the_same_bits(step: str, at: int, after: bool, bed: Bed) -> None:
    run(bed, "whole")
    with pytest.raises(KilledError):
        run(bed, "killed", Dying(1, step=step, at=at, after=after))
    resume(bed, "killed")
    assert states(bed, "killed") == states(bed, "whole")
    assert [c.late for c in closings(bed, "killed")] == [c.late for c in closings(bed, "whole")]


def test_what_late_updates_need_is_kept_until_they_count_and_no_longer(bed: Bed) -> None:
    going = federate(tiny(**LATE), bed.setting(), InProcess(1))
    store = open_store(bed.setting().place.store)
    journal = Journal(store)
    next(going)
    opened, commits = journal.opened(1), journal.commits()
    assert opened is not None
    for _ in range(2):
        assert store.read(opened.base.key) is not None
        assert store.read(commits[0].state.key) is not None, "what client-02 began from"
        retention.collect_garbage(bed.setting().place, 1)
    next(going)
    assert store.read(opened.base.key) is None
    assert store.read(commits[0].state.key) is None
    assert store.read(commits[1].state.key) is not None, "what client-01 began from"
    assert store.read("uplink/0001/client-02.0.report") is None
    list(going)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let client-01 store no update of the first round until it is released."""
    released, original = threading.Event(), client._send

    def slow(store: Any, job: ClientJob, *rest: Any) -> Any:
        if job.client == "client-01" and job.purpose == "train" and job.round_index == 1:
            released.wait(120)
        return original(store, job, *rest)

    monkeypatch.setattr(client, "_send", slow)
    return released


def test_who_never_answers_is_let_go_when_too_old_and_asked_again(
    bed: Bed, stuck: threading.Event
) -> None:
    reports = run(bed, carrier=InProcess(3), federation__round_timeout=100.0)
    stuck.set()
    assert [("client-01" in report.cohort) for report in reports] == [True, False, False, True]
    since = [
        [(f.client, f.since) for f in closed.failures if f.client == "client-01"]
        for closed in closings(bed)[:3]
    ]
    assert since == [[("client-01", 1)], [("client-01", 1)], [("client-01", 0)]]


def test_who_is_lost_after_its_round_is_not_tried_again_for_it(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = InProcess.do

    def do(self: InProcess, job: ClientJob, place: Place) -> Outcome:
        if (job.client, job.round_index, job.purpose) == ("client-02", 1, "train"):
            return ClientFailure(client=job.client, attempt=job.attempt, reason="E_X: power cut")
        return original(self, job, place)

    monkeypatch.setattr(InProcess, "do", do)
    reports = run(bed)
    assert [ages(closed) for closed in closings(bed)][:2] == [{}, {}]
    (failure,) = closings(bed)[1].failures
    assert (failure.client, failure.since) == ("client-02", 0)
    assert "client-02" in reports[2].cohort


def test_a_residual_goes_on_from_where_the_counted_update_left_it(bed: Bed) -> None:
    settings = {"codec": {"down": {"name": "masked"}, "up": {"name": "topk", "density": 0.1}}}
    run(bed, **settings)
    second, third = journal_of(bed).committed(2), journal_of(bed).committed(3)
    assert second is not None
    assert third is not None
    held = second.holdings["client-02"].memory
    assert held is not None
    assert held.key.startswith("memory/client-02/0001."), "it counted in the second round"


def test_who_began_from_a_state_that_is_gone_after_a_rollback_is_let_go(bed: Bed) -> None:
    kept = {"federation__keep_states": 3}
    run(bed, **kept)
    assert [ages(closed) for closed in closings(bed)] == [{}, {"02": 1}, {"01": 1}, {"02": 1}]
    roll_back(journal_of(bed), bed.setting().place, 2)
    third, fourth = resume(bed, "run", **kept)
    assert [ages(closed) for closed in closings(bed)] == [{}, {"02": 1}, {}, {}]
    assert third.cohort == ("client-00", "client-02")
    assert fourth.cohort == ("client-00", "client-01", "client-02")


def test_without_lateness_a_round_is_what_it_was(bed: Bed) -> None:
    alone = {"federation__close_at": 0, "federation__round_timeout": 100.0}
    run(bed, "with", **alone)
    run(bed, "without", **alone, federation__staleness=0)
    assert states(bed, "with")[1:] == states(bed, "without")[1:]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"federation__staleness": -1}, r"federation\.staleness must be 0 or more"),
        ({"federation__close_at": 0}, "rounds that wait for all have nobody late"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny(**(LATE | settings))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "spafl"}, "exchanges no whole model"),
        ({"name": "ldawa"}, "compares the updates"),
        ({"name": "fedlp"}, "send a part of the model"),
        ({"name": "fedpaq"}, "weights of its own"),
        ({"name": "fedavg", "local": {"name": "guided"}}, "follow what they are sent"),
    ],
)
def test_methods_with_which_old_changes_cannot_count_are_refused(
    method: dict[str, Any], said: str, bed: Bed
) -> None:
    settings = {k: v for k, v in LATE.items() if not k.startswith("method")}
    settings |= {f"method__{name}": value for name, value in method.items()}
    with pytest.raises(ConfigError, match=said):
        list(federate(tiny(**settings), bed.setting(), InProcess(1)))
    assert open_store(bed.setting().place.store).read("run.json") is None
