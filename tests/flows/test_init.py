"""A folder to work in, outside a clone and from an installed package."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.importtools import import_object

from bed import ROOT

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
PROJECT = ROOT / "flows" / "project"
CODE = ("flows", "fedx_core")


def test_a_run_works_in_a_folder_that_was_just_started(
    tmp_path: Path, fedx: Fedx, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fedx("init", "mine", "--json") == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert written == ["params.yaml", "dvc.yaml", "prefect.yaml", ".gitignore"]
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.delenv("FEDX_DATA_ROOT")
    source = "--set datasets.synthetic.source"
    few = f"{source}.limit=200 {source}.image_size=16".split()
    assert fedx("data", "synthetic", *few) == 0
    small = "--set training.epochs=1 --set training.batch_size=10 --no-engine --track nothing"
    once = "--params params.yaml --run one --rounds 1 --method fedavg"
    assert fedx("run", *few, *small.split(), *once.split()) == 0
    assert Path("runs/one/model.safetensors").exists()


def test_files_that_are_there_stay_as_they_are(tmp_path: Path, fedx: Fedx, capsys: Said) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    assert fedx("init") == 0
    assert "params.yaml   was there already and stays" in capsys.readouterr().out
    assert (tmp_path / "params.yaml").read_text() == "seed: 7\n"
    assert (tmp_path / "dvc.yaml").exists()
    assert fedx("init", "params.yaml") == 1
    assert "error E_STORAGE: can't start a folder at params.yaml" in capsys.readouterr().err


def test_the_stages_of_such_a_folder_are_the_clones_without_its_code() -> None:
    clones: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for stage in clones["stages"].values():
        kept = [d for d in stage.pop("deps") if Path(d).parts[0] not in CODE]
        stage |= {"deps": kept} if kept else {}
    assert yaml.safe_load((PROJECT / "pipeline.yaml").read_text()) == clones


def test_deployments_name_flows_by_module_so_that_they_are_found_from_any_folder() -> None:
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert [each["name"] for each in deployments] == ["round-loop", "sweep", "train"]
    for each in deployments:
        assert ":" not in each["entrypoint"]  # which would be a path
        assert isinstance(import_object(each["entrypoint"]), Flow)


def test_the_files_are_in_the_package_that_is_built(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in CODE:
        unbuilt = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unbuilt)
    for name in ("pyproject.toml", "README.md", "LICENSE", "params.yaml", "prefect.yaml"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(tmp_path), str(source),
        ],
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        for path in PROJECT.iterdir():
            if path.is_file():
                assert files.read(f"flows/project/{path.name}") == path.read_bytes()
