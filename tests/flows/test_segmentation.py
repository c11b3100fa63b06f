"""A run that learns classes of pixels, from its data to all that is shown of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import tiny
from fedx_core.base import config
from fedx_core.base.errors import DataError
from fedx_core.learning import evaluation
from fedx_core.predict.probe import Settings
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from flows.report.files import write_report
from flows.report.gather import gather
from flows.running.experiment import carry_out, settle
from flows.runs import record
from flows.runs.live import display, line
from flows.runs.probe import carry_out as probed
from flows.runs.run_folder import RunFolder
from flows.settings.request import Request
from flows.stages.evaluate import evaluate
from flows.tracking import NoTracker

SCENES: dict[str, Any] = {
    "datasets__synthetic__source": {
        "name": "synthetic", "label_kind": "pixels", "image_size": 32, "train": 64,
        "validation": 60, "test": 30,
    },
    "datasets__synthetic__reference": {"per_class": 1, "absent": "skip"},
    "training__objective": {"name": "segmentation", "width": 16},
    "method__warmup_rounds": 1,
    "federation__rounds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data in ``data`` and one run, ``federate``, beside it."""
    root = tmp_path_factory.mktemp("pixels")
    settings = tiny(**SCENES)
    for stage in (prepare, partition, reference):
        stage(settings, "synthetic", root / "data")
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(settings)))
    asked = Request(
        run="federate", params=str(params), run_root=str(root), data_root=str(root / "data")
    )
    carry_out(
        settle(asked), run_at="here", workers=1, display=display("nothing"), tracker=NoTracker()
    )
    return root


def test_mean_iou_is_shown_wherever_accuracy_is(ran: Path) -> None:
    folder = RunFolder(ran / "federate")
    summary = json.loads((folder.results / "summary.json").read_text())
    assert summary["metrics"].keys() == set(evaluation.METRICS["pixels"])
    assert summary["left_out"] == []
    share = f"{100 * summary['metrics']['mean_iou']:5.1f} %"
    assert f"mIoU {share}" in line(record.read(folder).reports)
    runs = gather(ran, ["federate"])
    written = write_report(runs, ran / "report", heat_maps=1, accuracy=None)
    page = written.page.read_text()
    assert "mean IoU" in page
    assert "intersection over union where its pixels have one each" in page
    assert any("heat maps explain one label of an image" in said for said in written.missing)
    assert written.headline[0]["final"] == summary["metrics"]["mean_iou"]


def test_a_models_file_alone_scores_as_its_run_said(ran: Path) -> None:
    summary = json.loads((RunFolder(ran / "federate").results / "summary.json").read_text())
    found = json.loads(evaluate(ran, ran / "data").read_text())
    assert found["test"] == pytest.approx(summary["metrics"])
    lines = (ran / "evaluate" / "classes.csv").read_text().splitlines()
    assert len(lines) == 1 + 19
    assert not (ran / "evaluate" / "confusion.csv").exists()


def test_what_is_about_whole_images_says_so(ran: Path) -> None:
    with pytest.raises(DataError, match=r"synthetic has a class for each pixel, and a probe"):
        probed(RunFolder(ran / "federate"), None, str(ran / "data"), Settings(), "cpu")
