"""The job that waits for a GPU runs, in small, on a CPU and without Prefect and MLflow."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALONE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prefect", "mlflow", "dvc", "matplotlib"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_gpu_job_runs_in_small_on_the_core_alone(tmp_path: Path) -> None:
    output, folder = tmp_path / "gpu.json", tmp_path / "data"
    done = subprocess.run(
        [
            sys.executable, "-c", ALONE, ROOT / "benchmarks" / "gpu.py", "--device", "cpu",
            "--dataset", "synthetic", "--model", "resnet6", "--limit", "250", "--rounds", "2",
            "--folder", folder, "--output", output,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert len(found["rounds_seconds"]) == len(found["accuracy"]) == 2
    assert found["seconds"] >= sum(found["rounds_seconds"]) > 0
    clients = json.loads((folder / "synthetic" / "shards" / "manifest.json").read_text())["clients"]
    assert len(clients) == 8
    row = done.stdout.splitlines()[-1]
    assert row.startswith("| cpu | synthetic | resnet6 | 1 | 2 | ")
