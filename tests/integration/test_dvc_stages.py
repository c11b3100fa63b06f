import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


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


@pytest.mark.integration
def test_dvc_runs_the_stages_once_and_again_only_where_something_changed(tmp_path: Path) -> None:
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("fedx_core", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["prepare"] = ["synthetic"]
    params["datasets"]["synthetic"]["source"] |= {
        "image_size": 8,
        "train": 80,
        "validation": 100,
        "test": 40,
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    dvc(tmp_path, "init", "--no-scm")
    dvc(tmp_path, "config", "core.analytics", "false")

    first = dvc(tmp_path, "repro")
    for stage in ("prepare", "partition", "reference"):
        assert f"Running stage '{stage}@synthetic'" in first
    assert (tmp_path / "data/synthetic/shards/client-07/train.images.npy").is_file()

    assert "Running stage" not in dvc(tmp_path, "repro")

    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**params, "seed": 99}))
    third = dvc(tmp_path, "repro")
    assert "Running stage 'prepare@synthetic'" not in third
    for stage in ("partition", "reference"):
        assert f"Running stage '{stage}@synthetic'" in third
