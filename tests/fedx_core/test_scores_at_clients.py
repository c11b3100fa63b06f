"""Clients count the pixels of their test parts; the sum of the counts is scored, and no mean."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import poison
from bed import Bed, tiny
from fedx_core.asks import evaluate
from fedx_core.asks.evaluate import COUNTS, Ask
from fedx_core.base import plugins, state
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import DomainError
from fedx_core.base.state import StateDict
from fedx_core.clients.client import Place
from fedx_core.clients.plan import read_plan, set_up
from fedx_core.images import set_folder
from fedx_core.learning import evaluation
from fedx_core.methods.base import Local
from fedx_core.record.journal import Journal
from fedx_core.rounds import audit
from fedx_core.rounds.carrier import Carrier, InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport, Update
from final_hashes import Dying
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

SCENES: dict[str, Any] = {
    "datasets__synthetic__source": {
        "name": "synthetic", "label_kind": "pixels", "image_size": 16, "train": 48,
        "validation": 60, "test": 24,
    },
    "datasets__synthetic__reference": {"per_class": 1, "absent": "skip"},
    "training__objective": {"name": "segmentation", "width": 8},
    "federation__rounds": 2,
    "federation__attempts": 1,
}  # fmt: skip
CLASSES = 19


def settings_for(method: str, **changes: Any) -> ExperimentConfig:
    return tiny(**{**SCENES, "method__name": method, **changes})


def is_personal(method: str) -> bool:
    return bool(settings_for(method).method.build("methods").personal)


PERSONAL = [name for name in plugins.names("methods") if is_personal(name)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for stage in (prepare, partition, reference):
        stage(tiny(**SCENES), "synthetic", root)
    return root


@pytest.fixture
def bed(scenes: Path, tmp_path: Path) -> Bed:
    return Bed(scenes, tmp_path)


def run(
    bed: Bed, settings: ExperimentConfig, runtime: Carrier | None = None, name: str = "run"
) -> list[RoundReport]:
    setting = replace(bed.setting(name), audit=bed.runs / name)
    return list(federate(settings, setting, runtime or InProcess(1)))


def scored(report: RoundReport) -> tuple[Any, ...]:
    return report.metrics, report.per_class, report.per_client, report.traffic


def counted_slowly(bed: Bed, client: str, weights: StateDict) -> list[list[int]]:
    """Count what a client's model says of its test part, one pixel after another."""
    store = open_store(bed.setting().place.store)
    commit = Journal(store).committed(0)
    assert commit is not None
    desk = set_up(read_plan(store.get(commit.plan)))
    desk.model.load_state_dict(weights)
    desk.model.eval()
    part = set_folder.read_part(bed.data / "synthetic/shards" / client, "test")
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    for image, labels in zip(part.images, part.labels, strict=True):
        inputs = desk.plan.pixels.to_input(np.asarray(image)[None], torch.device("cpu"))
        with torch.inference_mode():
            logits = desk.model(inputs)[0].tolist()
        for row, of_row in enumerate(labels.tolist()):
            for column, label in enumerate(of_row):
                if label != 255:
                    at = [logits[index][row][column] for index in range(CLASSES)]
                    counts[label][at.index(max(at))] += 1
    return counts


def slowly(counts: list[list[int]]) -> dict[str, Any]:
    """Score a confusion matrix by the definitions."""
    overlaps = {}
    for index in range(CLASSES):
        bears = sum(counts[index])
        says = sum(row[index] for row in counts)
        if union := bears + says - counts[index][index]:
            overlaps[index] = counts[index][index] / union
    right = sum(counts[index][index] for index in range(CLASSES))
    return {
        "per_class": overlaps,
        "mean_iou": sum(overlaps.values()) / len(overlaps),
        "pixel_accuracy": right / sum(map(sum, counts)),
    }


@pytest.mark.parametrize("method", PERSONAL)
def test_scores_are_those_of_the_sum_of_what_each_clients_own_model_says(
    method: str, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(plugins.build("methods", method, {}))
    load, models = kind.evaluated, dict[str, StateDict]()

    def watched(self: Any, local: Local) -> None:
        load(self, local)
        models[local.client] = state.copy(local.model.state_dict())

    monkeypatch.setattr(kind, "evaluated", watched)
    first, last = run(bed, settings_for(method))
    assert first.metrics.keys() == set(evaluation.METRICS["pixels"])
    assert not first.per_class
    by_client = {client: counted_slowly(bed, client, found) for client, found in models.items()}
    assert sorted(by_client) == ["client-00", "client-01", "client-02"]
    added = np.sum([np.array(counts) for counts in by_client.values()], axis=0)
    wanted = slowly(added.tolist())
    assert last.metrics["mean_iou"] == pytest.approx(wanted["mean_iou"], abs=1e-12)
    assert last.metrics["pixel_accuracy"] == pytest.approx(wanted["pixel_accuracy"], abs=1e-12)
    names = set_folder.read(bed.data / "synthetic/prepared", "test").description.class_names
    assert last.per_class == {names[index]: iou for index, iou in wanted["per_class"].items()}
    own = {client: slowly(counts) for client, counts in by_client.items()}
    for client, found in last.per_client.items():
        assert found["mean_iou"] == pytest.approx(own[client]["mean_iou"], abs=1e-12)
    weights = [found["examples"] for found in last.per_client.values()]
    mean = np.average([found["mean_iou"] for found in last.per_client.values()], weights=weights)
    assert abs(mean - wanted["mean_iou"]) > 1e-4, "a mean is another number"
    pixels = [np.sum(by_client[client]) for client in last.per_client]
    losses = [found["loss"] for found in last.per_client.values()]
    assert last.metrics["loss"] == pytest.approx(np.average(losses, weights=pixels))


class Away(InProcess):
    """Loses client-01's first answer about scores, after it was stored."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = super().do(job, place)
        if (job.client, job.purpose, job.attempt) == ("client-01", "evaluate", 0):
            return ClientFailure(client=job.client, attempt=0, reason="away")
        return outcome


@pytest.mark.parametrize("method", ["spafl", "fedavg"])
def test_a_run_that_is_killed_or_asks_twice_scores_the_same_and_leaves_no_counts(
    method: str, bed: Bed
) -> None:
    settings = settings_for(method, federation__attempts=2)
    whole = run(bed, settings, InProcess(2), "whole")
    runtime = Dying(fatal="commit")
    going = federate(settings, bed.setting("killed"), runtime)
    next(going)
    runtime.is_armed = True
    with suppress(KeyboardInterrupt):
        next(going)
        raise AssertionError("no commit in the second round")
    (resumed,) = federate(settings, bed.setting("killed"), InProcess(1), resume=True)
    assert scored(resumed) == scored(whole[-1])
    again = run(bed, settings, Away(), "again")
    assert scored(again[-1]) == scored(whole[-1])
    for name in ("whole", "killed", "again"):
        left = bed.runs / name / "store" / "evaluate"
        assert not [path for path in left.rglob("*") if path.is_file()]


def test_counts_are_charged_to_evaluation_beside_the_model(bed: Bed) -> None:
    reports = run(bed, settings_for("fedavg"))
    store = open_store(bed.setting().place.store)
    commit = Journal(store).committed(0)
    assert commit is not None
    plan = read_plan(store.get(commit.plan))
    (size,) = set(frame.lengths(Ask().schema(plan)))
    assert size == frame.HEADER.size + 8 * CLASSES**2
    model = {sent.downlink for sent in reports[-1].traffic.values()}
    assert {sent.evaluation for sent in reports[-1].traffic.values()} == {max(model) + size}
    single = replace(plan, label_kind="single")
    assert not Ask().schema(single).entries


@pytest.mark.parametrize("kind", poison.CONFUSION)
def test_counts_that_cannot_be_are_refused_and_the_others_are_scored(kind: str, bed: Bed) -> None:
    lie, code = poison.CONFUSION[kind]
    lying = poison.Lying(purpose="evaluate", payload=lie)
    refused(bed, lying, code)


@pytest.mark.parametrize(
    ("code", "lie"),
    [
        ("E_PAYLOAD", lambda report: replace(report, uplink=None)),
        ("E_DOMAIN", poison.metric("mean_iou", 1.0)),
        ("E_NONFINITE", poison.metric("loss", float("nan"))),
        ("E_DOMAIN", lambda report: replace(report, examples=1)),
    ],
    ids=["no counts", "a mean IoU of its own", "a loss that is NaN", "fewer images than pixels"],
)
def test_reports_that_cannot_be_are_refused_too(code: str, lie: poison.ReportLie, bed: Bed) -> None:
    refused(bed, poison.Lying(purpose="evaluate", report=lie), code)


def refused(bed: Bed, lying: poison.Lying, code: str) -> None:
    """Check that what the liar says of its pixels counts for nothing, and is named."""
    settings = settings_for("local_only", federation__rounds=1)
    (last,) = run(bed, settings, lying)
    assert lying.told == 1
    (line,) = map(json.loads, (bed.runs / "run" / audit.FILE).read_text().splitlines())
    assert (line["client"], line["purpose"]) == (poison.LIAR, "evaluate")
    assert line["code"] == code
    (honest,) = run(bed, settings, name="honest")
    others = {c: found for c, found in honest.per_client.items() if c != poison.LIAR}
    assert last.per_client == others
    assert last.metrics.keys() == set(evaluation.METRICS["pixels"])
    accuracy = [found["pixel_accuracy"] for found in others.values()]
    assert min(accuracy) <= last.metrics["pixel_accuracy"] <= max(accuracy)


def answer(client: str, counts: list[list[int]], **metrics: float) -> Update:
    payload = {COUNTS: torch.tensor(counts)}
    return Update(client=client, payload=payload, examples=2, metrics=metrics)


def test_a_client_without_known_pixels_has_no_say() -> None:
    some = answer("a", [[3, 1], [0, 0]], loss=0.5)
    more = answer("b", [[0, 0], [1, 1]], loss=2.0)
    none = answer("c", [[0, 0], [0, 0]])
    found = evaluate.together([some, more, none])
    assert found == evaluate.together([some, more])
    # [[3, 1], [1, 1]]: 3 of 5, and 1 of 3.
    assert found == {
        "mean_iou": pytest.approx((3 / 5 + 1 / 3) / 2),
        "pixel_accuracy": pytest.approx(4 / 6),
        "loss": pytest.approx((4 * 0.5 + 2 * 2.0) / 6),
    }
    assert evaluate.scores_of(none) == {"examples": 2.0}
    assert evaluate.together([none]) == evaluate.together([]) == {}
    assert evaluate.counted([]) is None


def test_as_many_pixels_as_the_images_have_are_taken_and_no_more(scenes: Path) -> None:
    about = set_folder.read(scenes / "synthetic/prepared", "test").description
    most = 2 * about.image_size**2
    Ask().check(answer("a", [[most, 0], [0, 0]]), about)
    with pytest.raises(DomainError, match=r"of a counts 513 pixels, and its 2 images have 512"):
        Ask().check(answer("a", [[most, 1], [0, 0]]), about)
