"""Every method learns classes of pixels, or says before the run why not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bed import Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.images import set_folder, strata
from fedx_core.learning import evaluation
from fedx_core.predict import model_file, probe
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

METHODS = plugins.names("methods")
REFUSED = {
    "fedckd": "fedckd distils projections and predictions of two views",
    "fedlp_hetero": "segmentation has none of whole images",
}
OWN: dict[str, dict[str, Any]] = {
    "fedx": {"method__warmup_rounds": 1, "method__relevance": {"name": "lrp"}},
    "fedsense": {"method__distil": "off", "method__ramp": 1},
}
SCENES: dict[str, Any] = {
    "datasets__synthetic__source": {
        "name": "synthetic", "label_kind": "pixels", "image_size": 32, "train": 96,
        "validation": 60, "test": 40,
    },
    "datasets__synthetic__reference": {"per_class": 1, "absent": "skip"},
    "training__objective": {"name": "segmentation", "width": 16},
}  # fmt: skip


def settings_for(method: str, **changes: Any) -> ExperimentConfig:
    named = {} if method == "fedx" else {"method__name": method}
    found = {"federation__rounds": 2, **SCENES, **named, **OWN.get(method, {}), **changes}
    return tiny(**found)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for stage in (prepare, partition, reference):
        stage(tiny(**SCENES), "synthetic", root)
    return root


@pytest.fixture
def bed(scenes: Path, tmp_path: Path) -> Bed:
    return Bed(scenes, tmp_path)


def constant(bed: Bed) -> float:
    """The best mean IoU of whoever says one class for all pixels."""
    test = set_folder.read(bed.data / "synthetic/prepared", "test").parts["test"]
    counts = strata.pixel_counts(test.labels, 19)
    return float(counts.max() / counts.sum() / np.count_nonzero(counts))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_pixels_and_goes_on_after_a_stop(name: str, bed: Bed) -> None:
    settings = settings_for(name)
    if name in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name]):
            list(federate(settings, bed.setting(), InProcess(1)))
        return
    parts, whole = bed.setting("parts"), bed.setting("whole")
    stopped = federate(settings, parts, InProcess(1))
    next(stopped)
    stopped.close()
    (second,) = federate(settings, parts, InProcess(1), resume=True)
    every = list(federate(settings, whole, InProcess(2)))
    models = [final_model(open_store(each.place.store)) for each in (parts, whole)]
    assert state.equal(*models)
    assert second.metrics == every[-1].metrics
    assert second.metrics.keys() == set(evaluation.METRICS["pixels"])
    assert all(0 <= second.metrics[score] <= 1 for score in ("mean_iou", "pixel_accuracy"))
    assert {"decoder.0.above.weight", "fc.weight"} <= models[0].keys()
    for client in second.per_client.values():
        assert client.keys() == {*evaluation.METRICS["pixels"], "examples"}


@pytest.mark.parametrize("method", ["fedavg", "fedx"])
def test_two_rounds_beat_whoever_says_one_class_for_all(method: str, bed: Bed) -> None:
    more = {"training__learning_rate": 0.003, "training__epochs": 6}
    if method == "fedx":
        more |= {"training__shrink": True, "training__batch_norm": "recalibrate"}
    reports = list(federate(settings_for(method, **more), bed.setting(), InProcess(1)))
    last = reports[-1]
    assert last.metrics["mean_iou"] > 1.5 * constant(bed)
    assert last.metrics["mean_iou"] == pytest.approx(
        sum(last.per_class.values()) / len(last.per_class)
    )
    assert reports[0].metrics_before_pruning.keys() == (
        set(evaluation.METRICS["pixels"]) if method == "fedx" else set()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"support": {"name": "seeded", "density": 0.6}},
        {"codec": {"name": "topk", "density": 0.2}},
        {"recovery": {"name": "reconstruct"}},
        {"recovery": {"name": "distil", "steps": 3}},
        {"method__relevance": {"name": "taylor"}},
        {"federation__selection": {"metric": "mean_iou", "patience": 0, "min_delta": 0.0}},
        {"training__class_weights": "balanced", "training__label_smoothing": 0.1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_else_there_is_goes_along(changes: dict[str, Any], bed: Bed) -> None:
    method = "fedavg" if "support" in changes or "codec" in changes else "fedx"
    settings = settings_for(method, **changes)
    last = list(federate(settings, bed.setting(), InProcess(1)))[-1]
    assert 0 < last.metrics["mean_iou"] < 1
    if "federation__selection" in changes:
        assert last.validation.keys() == set(evaluation.METRICS["pixels"])


def test_an_encoder_is_probed_by_images_and_not_by_pixels(bed: Bed, tiny_data: Path) -> None:
    setting = bed.setting()
    list(federate(settings_for("fedavg", federation__rounds=1), setting, InProcess(1)))
    store = open_store(setting.place.store)
    about = set_folder.read(setting.data / "prepared").description
    card = model_file.card_of(Journal(store), about, 1)
    with pytest.raises(DataError, match=r"scenes has a class for each pixel, and a probe judges"):
        probe.check(card, about, "scenes")
    whole = set_folder.read(tiny_data / "countries/prepared").description
    probe.check(card, whole, "countries")
    assert probe.encoder_of(final_model(store), card)
