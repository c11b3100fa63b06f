import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import TINY
from fedx_core.base.config import override

ROOT = Path(__file__).parents[2]
DATA = ("prepare", "partition", "reference")


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC on a folder as somebody who just fetched the project would."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def project(folder: Path) -> dict[str, Any]:
    """Copy what the stages run on; return params.yaml, with one data set to prepare."""
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("fedx_core", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["prepare"] = ["synthetic"]
    return params


@pytest.mark.integration
def test_dvc_runs_the_stages_once_and_again_only_where_something_changed(tmp_path: Path) -> None:
    params = project(tmp_path)
    params["datasets"]["synthetic"]["source"] |= {
        "image_size": 8,
        "train": 80,
        "validation": 100,
        "test": 40,
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    dvc(tmp_path, "init", "--no-scm")

    first = dvc(tmp_path, "repro", *DATA)
    for stage in ("prepare", "partition", "reference"):
        assert f"Running stage '{stage}@synthetic'" in first
    assert (tmp_path / "data/synthetic/shards/client-07/train.images.npy").is_file()

    assert "Running stage" not in dvc(tmp_path, "repro", *DATA)

    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**params, "seed": 99}))
    third = dvc(tmp_path, "repro", *DATA)
    assert "Running stage 'prepare@synthetic'" not in third
    for stage in ("partition", "reference"):
        assert f"Running stage '{stage}@synthetic'" in third


@pytest.mark.integration
def test_the_experiment_is_a_pipeline_that_dvc_compares_and_shares(tmp_path: Path, s3: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    tiny = {k: v for k, v in TINY.items() if not k.startswith("datasets.countries")}
    params = override(project(here), {**tiny, "federation.rounds": 2, "method.warmup_rounds": 1})
    (here / "params.yaml").write_text(yaml.safe_dump(params))
    (here / ".gitignore").write_text("/runs/\n/mlflow.db*\n/mlruns/\n/site/\n__pycache__/\n")
    git(here, "init", "-q")
    dvc(here, "init", "-q")
    for name, value in (("analytics", "false"), ("autostage", "true")):
        dvc(here, "config", f"core.{name}", value)

    first = dvc(here, "repro", "federate", "evaluate", "report")
    for stage in ("federate", "evaluate", "report"):
        assert f"Running stage '{stage}'" in first
    assert "Running stage" not in dvc(here, "repro", "federate", "evaluate", "report")
    summary = json.loads((here / "experiment/federate/results/summary.json").read_text())
    metrics = json.loads((here / "experiment/metrics.json").read_text())
    assert metrics["test"] == pytest.approx(summary["metrics"])
    assert metrics["wire_bytes"] == summary["wire_bytes"]["total"]
    assert "test.overall_accuracy" in dvc(here, "metrics", "show")
    git(here, "add", "-A")
    git(here, "commit", "-q", "-m", "base")

    dvc(here, "exp", "run", "-S", "method.pruning_rate=0.9")
    [changed] = json.loads(dvc(here, "params", "diff", "--json"))["params.yaml"].values()
    assert (changed["old"], changed["new"]) == (0.5, 0.9)
    found = json.loads(dvc(here, "metrics", "diff", "--json"))["experiment/metrics.json"]
    assert found["sparsity"]["new"] > 0.8 > found["sparsity"]["old"]

    # Each figure once, with both experiments in it.
    drawn = json.loads(dvc(here, "plots", "diff", "--json", "--split", "HEAD", "workspace"))["data"]
    assert sorted(drawn) == [
        "score against MiB on the wire", "score by class", "score by round", "sparsity by round",
    ]  # fmt: skip
    for figures in drawn.values():
        assert [sorted(figure["revisions"]) for figure in figures] == [["HEAD", "workspace"]]

    dvc(here, "remote", "add", "-d", "store", f"{s3}/dvc")
    dvc(here, "remote", "modify", "store", "endpointurl", os.environ["AWS_ENDPOINT_URL_S3"])
    dvc(here, "push")
    git(here, "add", "-A")
    git(here, "commit", "-q", "-m", "variant")
    there = tmp_path / "there"
    git(tmp_path, "clone", "-q", str(here), str(there))
    dvc(there, "pull", "experiment/federate")
    model = "experiment/federate/model.safetensors"
    assert (there / model).read_bytes() == (here / model).read_bytes()


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)
