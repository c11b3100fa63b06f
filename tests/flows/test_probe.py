"""``fedx probe`` as a shell sees it, and where its numbers go."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from bed import NARROW
from fedx_core.base import state, tensor_file
from fedx_core.predict import model_file
from flows.runs import probe as probing
from flows.runs.run_folder import RunFolder

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--workers", "1")
QUICK = ("--labels", "10", "--draws", "2", "--epochs", "2", "--device", "cpu")


def test_a_probe_is_shown_kept_and_part_of_the_report(
    fedx: Fedx, base: RunFolder, capsys: Said
) -> None:
    assert fedx("probe", "base", *QUICK) == 0
    said = capsys.readouterr().out
    assert "linear probe" in said
    assert "random encoder" in said
    assert "runs/base/results/probe-synthetic.json" in said
    first = (base.results / "probe-synthetic.json").read_bytes()
    assert fedx("probe", "base", *QUICK, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (base.results / "probe-synthetic.json").read_bytes() == first
    assert answer["probe"]["scores"] == json.loads(first)["scores"]
    by_measure = {(row["measure"], row["share"]): row for row in answer["table"]}
    assert set(by_measure) == {("knn", 1), ("linear", 1), ("linear", 0.1), ("fine_tuned", 0.1)}
    row = by_measure["fine_tuned", 0.1]
    scores = [
        score["metrics"]["overall_accuracy"]
        for score in answer["probe"]["scores"]
        if (score["measure"], score["encoder"]) == ("fine_tuned", "run")
    ]
    assert row["run"] == pytest.approx(torch.tensor(scores).mean().item())
    assert row["spread"] == pytest.approx(torch.tensor(scores).std().item())
    assert fedx("report", "base", "--heat-maps", "0") == 0
    page = (base.path / "report" / "report.html").read_text()
    assert "random encoder" in page
    assert (base.path / "report" / "tables" / "probe-base-synthetic.csv").exists()


def test_a_run_that_goes_on_can_be_probed(fedx: Fedx, base: RunFolder, capsys: Said) -> None:
    whole, _ = probing.carry_out(base, None, None, settings := quick(), "cpu")
    base.model.unlink()
    assert probing.carry_out(base, None, None, settings, "cpu")[0] == whole


def quick() -> probing.Settings:
    return probing.Settings(shares=(), draws=1, epochs=0)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["nowhere"], "error E_RUN: no run 'nowhere'"),
        (["base", "--labels", "100"], "--labels must lie between 0 and 100 percent"),
        (["base", "--dataset", "countries"], "error E_DATA: countries has the bands "),
        (["base", "--dataset", "eurosat"], "error E_DATA: "),
    ],
)
def test_what_cannot_be_probed_is_refused(
    fedx: Fedx, base: RunFolder, capsys: Said, arguments: list[str], wanted: str
) -> None:
    assert fedx("probe", *arguments) == 1
    assert wanted in capsys.readouterr().err
    assert not list(base.results.glob("probe-*"))


def test_a_pre_trained_encoder_is_a_model_in_mlflow_its_probe_a_metric_and_labels_start_from_it(
    fedx: Fedx, mlflow_uri: str, tmp_path: Path, capsys: Said
) -> None:
    short = ("--method", "fedavg", "--rounds", "1", *QUIETLY)
    contrast = ("--set", "training.objective.name=simclr", "--set", "training.batch_size=16")
    assert fedx("run", "--run", "encoder", *short, *contrast) == 0
    assert fedx("probe", "encoder", "--labels", "0", "--device", "cpu") == 0
    client = MlflowClient(tracking_uri=mlflow_uri)
    (version,) = client.search_model_versions(f"name = 'fedx-synthetic-{NARROW}'")
    assert version.tags["fedx.run"] == "encoder"
    numbers = client.get_run(version.run_id).data.metrics
    row = probing.lines(probing.read(RunFolder(tmp_path / "runs" / "encoder"))[0])[1]
    assert numbers["probe/synthetic/linear/run"] == row.run
    assert numbers["probe/synthetic/linear/random"] == row.random
    capsys.readouterr()
    assert fedx("sync", "encoder") == 0
    assert "nothing was missing" in capsys.readouterr().out

    files = client.list_artifacts(version.run_id, f"models/{Path(version.source).name}")
    (file,) = [each.path for each in files if each.path.endswith(".safetensors")]
    local = client.download_artifacts(version.run_id, file, str(tmp_path))
    frozen = ("--set", "training.learning_rate=1e-12", "--set", "training.weight_decay=0.0")
    started = ("--set", f"model.weights={local}", "--run", "labels", "--track", "nothing")
    assert fedx("run", *short, *frozen, *started) == 0
    encoder, _ = model_file.read_weights(Path(local))
    labels = tmp_path / "runs" / "labels" / "model.safetensors"
    model = tensor_file.load_file(labels, tensor_file.header_of(labels).layout)
    assert "fc.weight" in model
    kept = [name for name in encoder if name in model and name.endswith("conv1.weight")]
    for name in kept:
        torch.testing.assert_close(model[name], encoder[name])
    assert len(kept) > 2
    assert not state.equal(model, encoder)
