"""A method that asks twice, the second time some clients only: one file, nothing in the core."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core import asks, methods
from fedx_core.base import state
from fedx_core.base.errors import QuorumError
from fedx_core.record.journal import Journal
from fedx_core.record.records import Answered
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.rounds.inventory import contents
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob

FILE = '''"""Power-of-choice: of the clients that are drawn, those with the highest losses train.

Source: Y. J. Cho, J. Wang, G. Joshi, Client Selection in Federated Learning, 2020,
https://arxiv.org/abs/2010.01243, section 3.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from fedx_core.asks import base as asks
from fedx_core.methods import base
from fedx_core.methods.base import Question
from fedx_core.wire import domains


@dataclass(frozen=True, kw_only=True)
class Ask(asks.Ask):
    """The loss of the model on the training part."""

    verb: ClassVar[str] = "tell the loss of a model"

    def says(self, method, label_kind):
        return {"loss": domains.LOSS}

    def do(self, asked):
        method, local = asked.there
        method.evaluated(local)
        logits = local.desk.predict(local.model, local.examples)
        labels = torch.from_numpy(local.examples.labels.copy()).long()
        loss = float(functional.cross_entropy(logits, labels))
        return asks.Answer(examples=len(local.examples), metrics={"loss": loss})


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg of the clients that have most to learn.

    Args:
        train: how many.
    """

    train_most: int = 2

    def round(self, desk, before, cohort):
        answers = yield Question(ask="power_of_choice")
        losses = {client: found.metrics["loss"] for client, found in answers.updates.items()}
        chosen = sorted(losses, key=losses.__getitem__, reverse=True)[: self.train_most]
        trained = yield Question(clients=tuple(c for c in cohort if c in chosen))
        return trained.settled
'''
CHOICE = {"method__name": "power_of_choice", "federation__rounds": 3}


@pytest.fixture(autouse=True)
def power_of_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "power_of_choice.py").write_text(FILE)
    for package in (methods, asks):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "plugins")])
    yield
    for package in ("methods", "asks"):
        sys.modules.pop(f"fedx_core.{package}.power_of_choice", None)


def run(bed: Bed, name: str, carrier: InProcess | None = None, **changes: Any) -> str:
    setting = bed.setting(name)
    settings = tiny(**{**CHOICE, **changes})
    resume = Journal(open_store(setting.place.store)).run() is not None
    list(federate(settings, setting, carrier or InProcess(1), resume=resume))
    return state.digest(final_model(open_store(setting.place.store)))


def left(bed: Bed, name: str) -> set[str]:
    return {key for key, _ in contents(open_store(bed.setting(name).place.store))}


def answered(bed: Bed, name: str) -> dict[str, Answered]:
    journal = Journal(open_store(bed.setting(name).place.store))
    return {key: record for key, record in journal.records() if isinstance(record, Answered)}


def test_those_with_the_highest_losses_train_and_every_byte_is_charged(bed: Bed) -> None:
    run(bed, "choice")
    records = answered(bed, "choice")
    assert list(records) == [f"journal/000{index}/answered.1" for index in (1, 2, 3)]
    reports = history(open_store(bed.setting("choice").place.store))
    for record, report in zip(records.values(), reports, strict=True):
        assert [r.client for r in record.reports] == ["client-00", "client-01", "client-02"]
        losses = {r.client: r.metrics["loss"] for r in record.reports}
        idle = min(losses, key=lambda client: float(losses[client]))  # type: ignore[arg-type]
        assert report.cohort == tuple(client for client in losses if client != idle)
        assert set(report.client_metrics) == set(report.cohort)
        whole = report.traffic[idle].downlink
        assert whole > 0
        assert report.traffic[idle].uplink == 0
        for client in report.cohort:
            assert report.traffic[client].downlink == 2 * whole
            assert report.traffic[client].uplink > 0


def test_it_ends_alike_with_more_workers_and_leaves_nothing_behind(bed: Bed) -> None:
    assert run(bed, "one") == run(bed, "two", InProcess(2))
    folder = Path(bed.setting("one").place.store)
    kept = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    assert "power_of_choice" not in kept
    assert "downlink" not in kept


class Killed(BaseException):
    """As a kill would: nothing handles it."""


class Dying(InProcess):
    """Ends the server before its n-th step."""

    def __init__(self, before: int) -> None:
        super().__init__(1)
        object.__setattr__(self, "_left", [before])

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        self._left[0] -= 1  # type: ignore[attr-defined]
        if self._left[0] < 0:  # type: ignore[attr-defined]
            raise Killed(name)
        return super().server_step(name, step, *arguments)


@pytest.fixture
def unkilled(bed: Bed) -> str:
    return run(bed, "unkilled", federation__rounds=2)


@pytest.mark.parametrize("step", range(0, 14, 2))
def test_killed_before_any_step_it_goes_on_to_the_same_bytes(
    bed: Bed, unkilled: str, step: int
) -> None:
    with pytest.raises(Killed):
        run(bed, "killed", Dying(step), federation__rounds=2)
    assert run(bed, "killed", federation__rounds=2) == unkilled
    assert left(bed, "killed") == left(bed, "unkilled")


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_record_of_the_answers_it_asks_again_or_not(
    bed: Bed, unkilled: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Journal.answer

    def answer(self: Journal, record: Answered, instead_of: int = 0) -> None:
        if when == "after":
            original(self, record, instead_of)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "answer", answer)
        with pytest.raises(Killed):
            run(bed, "killed", federation__rounds=2)
    assert run(bed, "killed", federation__rounds=2) == unkilled
    assert left(bed, "killed") == left(bed, "unkilled")


class Losing(InProcess):
    """Loses one client's answer to the first question, each time that it is asked."""

    def do(self, job: ClientJob, place: Any) -> Outcome:
        if job.client == "client-01" and job.purpose == "power_of_choice":
            return ClientFailure(client=job.client, attempt=job.attempt, reason="lost")
        return super().do(job, place)


def test_who_does_not_answer_is_not_chosen_or_the_round_waits_for_it(bed: Bed) -> None:
    run(bed, "lost", Losing(1), federation__min_reports=2)
    reports = history(open_store(bed.setting("lost").place.store))
    assert all(report.cohort == ("client-00", "client-02") for report in reports)
    assert all(report.traffic["client-01"].retry > 0 for report in reports)
    with pytest.raises(QuorumError, match="2 of 3 clients reported, 3 needed"):
        run(bed, "quorum", Losing(1))
