"""How long answers are waited for, who is asked again and who is late, whoever carries jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedx_core.clients.client import Place
from fedx_core.rounds import asking, dispatching
from fedx_core.rounds.asking import Asking
from fedx_core.rounds.carrier import Outcome
from fedx_core.wire.messages import PROTOCOL, ClientFailure, ClientJob, ClientReport, Ref

NOWHERE = Place(store="", shards="", memory="")


def job(client: str, deadline: float = 0.0, grace: float = 0.0) -> ClientJob:
    return ClientJob(
        protocol=PROTOCOL, run="run", round_index=1, client=client, attempt=0, seed=1,
        purpose="train", plan=Ref("plans/x", "0" * 64, 1), base=None, mask=None, schema="",
        memory=None, uplink_key=f"uplink/0001/{client}.0", deadline=deadline, grace=grace,
    )  # fmt: skip


def report(client: str, attempt: int = 0) -> ClientReport:
    return ClientReport(
        client=client, attempt=attempt, purpose="train", uplink=None, examples=1, metrics={},
        memory=None, seconds=0.0,
    )  # fmt: skip


def failure(client: str, attempt: int = 0) -> ClientFailure:
    return ClientFailure(client=client, attempt=attempt, reason="E_X: no")


@dataclass
class Timetable:
    """Hears what it is to hear at set seconds, and is the clock as well.

    Args:
        told: (second, outcomes), in order.
    """

    told: list[tuple[float, list[Outcome]]]
    now: float = 100.0
    sent: list[list[tuple[str, int, float]]] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    dropped: list[tuple[str, int]] = field(default_factory=list)
    workers: int = 1

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        return step(*arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        self.sent.append([(j.client, j.attempt, j.deadline) for j in jobs])

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        self.timeouts.append(timeout)
        ends = float("inf") if timeout is None else self.now + timeout
        if not self.told or 100.0 + self.told[0][0] > ends:
            assert timeout is not None, "waits for ever"
            self.now = ends
            return []
        second, outcomes = self.told.pop(0)
        self.now = max(100.0 + second, self.now)
        return outcomes

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        self.dropped += [(job.client, job.attempt) for job in jobs]


def ask(
    monkeypatch: pytest.MonkeyPatch,
    carrier: Timetable,
    jobs: Sequence[ClientJob],
    needed: int = 0,
    attempts: int = 2,
    close_at: int = 99,
) -> list[Outcome]:
    """Ask as long as reports are needed, until enough have come; who fails is asked again."""
    monkeypatch.setattr(asking.time, "monotonic", lambda: carrier.now)
    found: list[Outcome] = []

    def reports() -> int:
        return sum(isinstance(outcome, ClientReport) for outcome in found)

    question = Asking(
        carrier, NOWHERE, jobs, lambda: needed - reports(), lambda: reports() >= close_at
    )
    for asked, outcome in question.outcomes():
        assert asked.client == outcome.client
        assert asked.attempt == outcome.attempt
        found.append(outcome)
        lost = isinstance(outcome, ClientFailure) and not outcome.late
        if lost and asked.attempt + 1 < attempts:
            question.again(dispatching.next_attempt(asked))
    return found


def test_who_fails_is_asked_again_at_once_with_what_is_left_of_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carrier = Timetable(
        [(1.0, [failure("a"), failure("b")]), (4.0, [report("b", 1)]), (5.0, [report("c")])]
    )
    found = ask(monkeypatch, carrier, [job(name, 6.0) for name in "abc"])
    assert carrier.sent == [
        [("a", 0, 6.0), ("b", 0, 6.0), ("c", 0, 6.0)],
        [("a", 1, 5.0), ("b", 1, 5.0)],
    ]
    assert carrier.timeouts == [6.0, 5.0, 2.0, 1.0]
    assert carrier.dropped == [("a", 1)]
    assert [(o.client, o.attempt) for o in found] == [
        ("a", 0),
        ("b", 0),
        ("b", 1),
        ("c", 0),
        ("a", 1),
    ]
    late = found[-1]
    assert isinstance(late, ClientFailure)
    assert late.late
    assert late.reason == "late: no report after 5 seconds (federation.round_timeout)"


@pytest.mark.parametrize(
    ("needed", "second", "counts"),
    [(1, 7.0, True), (1, 9.0, True), (0, 7.0, False), (1, 10.5, False)],
)
def test_a_question_waits_through_its_grace_only_while_reports_are_lacking(
    needed: int, second: float, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier = Timetable([(second, [report("a")])])
    found = ask(monkeypatch, carrier, [job("a", 6.0, 4.0), job("b", 6.0, 4.0)], needed)
    assert [isinstance(outcome, ClientReport) for outcome in found] == [counts, False]
    # And no longer: who has not reported by the time that enough have is late.
    assert carrier.now == 100.0 + (second if counts else 10.0 if needed else 6.0)
    assert carrier.dropped == ([("b", 0)] if counts else [("a", 0), ("b", 0)])


def test_without_a_deadline_a_question_waits_for_all_and_drops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carrier = Timetable([(1e6, [report("b")]), (2e6, []), (3e6, [failure("a")])])
    found = ask(monkeypatch, carrier, [job("a"), job("b")], attempts=1)
    assert [outcome.client for outcome in found] == ["b", "a"]
    assert carrier.timeouts == [None] * 3
    assert carrier.dropped == []


def test_who_could_not_be_asked_again_in_time_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = Timetable([(6.0, [failure("a"), report("b")])])
    found = ask(monkeypatch, carrier, [job("a", 6.0), job("b", 6.0)])
    assert [(o.client, o.attempt) for o in found] == [("a", 0), ("b", 0), ("a", 1)]
    assert len(carrier.sent) == 1
    assert carrier.dropped == []


def test_a_question_closes_at_so_many_reports_and_at_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carrier = Timetable(
        [(1.0, [failure("e"), report("d")]), (2.0, [report("b"), report("a")]), (9.0, [])]
    )
    found = ask(monkeypatch, carrier, [job(name, 6.0) for name in "abcde"], close_at=2)
    assert [o.client for o in found if isinstance(o, ClientReport)] == ["d", "b"]
    assert carrier.dropped == [("a", 0), ("c", 0), ("e", 1)]
    assert carrier.now == 102.0
    closed = [o for o in found[3:] if isinstance(o, ClientFailure)]
    assert [(o.client, o.attempt, o.late) for o in closed] == [
        ("a", 0, True), ("c", 0, True), ("e", 1, True)
    ]  # fmt: skip
    assert all(o.reason.startswith("closed: others had reported by then") for o in closed)


def test_whoever_stops_listening_drops_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = Timetable([(1.0, [report("a"), report("b")])])
    outcomes = Asking(carrier, NOWHERE, [job(name) for name in "abc"]).outcomes()
    next(outcomes)
    outcomes.close()
    assert carrier.dropped == [("b", 0), ("c", 0)]


def test_words_of_strangers_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = Timetable([(1.0, [report("x"), report("a")]), (2.0, [report("a"), report("b")])])
    found = ask(monkeypatch, carrier, [job("a"), job("b")])
    assert [outcome.client for outcome in found] == ["a", "b"]
