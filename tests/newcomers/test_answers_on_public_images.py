"""Clients that send answers on public images, and no model: one file, nothing in the core."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core import asks, methods
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError
from fedx_core.clients.plan import read_plan
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.rounds.inventory import contents
from fedx_core.store import open_store
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientJob, ClientReport
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

FILE = '''"""Federated distillation: clients train, and send what models answer on public images.

The server teaches its model the mean of the answers, and sends that model.

Source: E. Jeong et al., Communication-Efficient On-Device Machine Learning: Federated Distillation
and Augmentation, 2018, https://arxiv.org/abs/1811.11479, with public images in place of labels.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional

from fedx_core.asks import base as asks
from fedx_core.base import state
from fedx_core.methods import base
from fedx_core.methods.base import Question
from fedx_core.wire import domains
from fedx_core.wire.messages import Entry, Schema


@dataclass(frozen=True, kw_only=True)
class Ask(asks.Ask):
    """Train the model that was sent, and say what it answers."""

    verb: ClassVar[str] = "train and answer on public images"

    def schema(self, plan):
        shape = (plan.public_images, plan.classes)
        return Schema((Entry("answers/shares", "torch.float32", shape, domain=domains.SHARE),))

    def says(self, method, label_kind):
        return {"train_loss": domains.LOSS}

    def do(self, asked):
        method, local = asked.there
        method.evaluated(local)
        loss = local.fit(None)
        shares = local.desk.predict(local.model, local.desk.public).softmax(1).clamp(0, 1)
        return asks.Answer(
            examples=len(local.examples),
            payload={"answers/shares": shares},
            metrics={"train_loss": loss},
        )


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Learns from answers.

    Args:
        steps: of distillation a round.
    """

    learns_from_public: ClassVar[bool] = True
    public_at_clients: ClassVar[bool] = True

    steps: int = 5

    def round(self, desk, before, cohort):
        answers = yield Question(ask="answers")
        images = sum(found.examples for found in answers.updates.values())
        taught = sum(
            found.payload["answers/shares"] * (found.examples / images)
            for found in answers.updates.values()
        )
        student = desk.loaded(before.model, None).to(desk.device).train()
        optimiser = torch.optim.Adam(student.parameters(), lr=1e-3)
        seen = desk.plan.pixels.to_input(desk.public.images, desk.device)
        for _ in range(self.steps):
            loss = functional.kl_div(student(seen).log_softmax(1), taught, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model = state.copy(student.eval().state_dict())
        return replace(before, round_index=before.round_index + 1, model=model)
'''
PUBLIC = 12
SETTINGS: dict[str, Any] = {
    "datasets__synthetic__reference__public": PUBLIC,
    "method__name": "answers",
    "federation__rounds": 2,
}


@pytest.fixture(autouse=True)
def distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "answers.py").write_text(FILE)
    for package in (methods, asks):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "plugins")])
    yield
    for package in ("methods", "asks"):
        sys.modules.pop(f"fedx_core.{package}.answers", None)


@pytest.fixture(scope="module")
def with_public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    for stage in (prepare, partition, reference):
        stage(tiny(datasets__synthetic__reference__public=PUBLIC), "synthetic", root)
    return root


def run(bed: Bed, name: str, carrier: InProcess | None = None, rounds: int = 2) -> str:
    setting = bed.setting(name)
    settings = tiny(**{**SETTINGS, "federation__rounds": rounds})
    resume = Journal(open_store(setting.place.store)).run() is not None
    list(federate(settings, setting, carrier or InProcess(1), resume=resume))
    return state.digest(final_model(open_store(setting.place.store)))


def test_answers_travel_and_no_model_goes_up_and_it_learns(
    with_public: Path, tmp_path: Path
) -> None:
    bed = Bed(with_public, tmp_path / "runs")
    assert run(bed, "one") == run(bed, "two", InProcess(2))
    first, second = history(open_store(bed.setting("one").place.store))
    answers = 64 + 4 * PUBLIC * 10
    model = next(iter(second.traffic.values())).downlink
    for report in (first, second):
        assert report.cohort == ("client-00", "client-01", "client-02")
        assert {sent.uplink for sent in report.traffic.values()} == {answers}
        assert report.train_loss > 0
    # The images travel once, and are charged for.
    images = {sent.downlink - model for sent in first.traffic.values()}
    assert all(3 * 32 * 32 * PUBLIC < size < 3 * 32 * 32 * PUBLIC + 500 for size in images)
    assert {sent.downlink for sent in second.traffic.values()} == {model}
    assert any(key.startswith("public/") for key, _ in contents(
        open_store(bed.setting("one").place.store)))  # fmt: skip


def test_a_run_that_stopped_ends_in_the_same_bytes(with_public: Path, tmp_path: Path) -> None:
    bed = Bed(with_public, tmp_path / "runs")
    whole = run(bed, "whole")
    run(bed, "stopped", rounds=1)
    assert run(bed, "stopped") == whole


class Lying(InProcess):
    """One client's answers are no shares."""

    def do(self, job: ClientJob, place: Any) -> Outcome:
        outcome = super().do(job, place)
        if job.client != "client-01" or job.purpose != "answers":
            return outcome
        assert isinstance(outcome, ClientReport)
        assert outcome.uplink is not None
        store = open_store(place.store)
        plan = read_plan(store.get(job.plan))
        schema = plugins.build("asks", job.purpose, {}).schema(plan)
        payload = frame.decode(store.get(outcome.uplink), schema, "dense")
        payload["answers/shares"][0, 0] = 1.5
        store.delete(outcome.uplink.key)
        lie = store.put(outcome.uplink.key, frame.encode(payload, schema, "dense"))
        return replace(outcome, uplink=lie)


def test_answers_are_believed_only_where_they_can_lie(with_public: Path, tmp_path: Path) -> None:
    bed = Bed(with_public, tmp_path / "runs")
    run(bed, "lied", Lying(1))
    for report in history(open_store(bed.setting("lied").place.store)):
        (failure,) = report.failures
        assert failure.client == "client-01"
        assert "answers/shares" in failure.reason
        assert failure.refused


def test_without_public_images_it_is_refused_before_the_run(bed: Bed) -> None:
    settings = tiny(method__name="answers")
    with pytest.raises(ConfigError, match=r"answers learns from public images.*reference\.public"):
        list(federate(settings, bed.setting("refused"), InProcess(1)))
