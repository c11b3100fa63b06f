"""The paper's EuroSAT job on a GPU: ResNet18, 8 clients, 20 rounds of 3 epochs, batches of 512.

    python benchmarks/gpu.py [--dataset synthetic] [--workers N] [--folder FOLDER] [--output FILE]
    python benchmarks/gpu.py --device cpu --dataset synthetic --model resnet6 --limit 400 --rounds 2

FedX with LRP at 0.5, pruning after half of the rounds. Needs the core's packages alone, no Prefect
and no MLflow. Data is prepared first, and kept in ``--folder``, and is not part of the time;
``synthetic`` draws as many images of the same size where EuroSAT is not at hand. The second line
tries everything on a CPU within a minute. Prints a Markdown table and keeps every number as JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import FedXError
from fedx_core.clients.client import Place
from fedx_core.learning.training import pick_device
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.wire.messages import RoundReport
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

ROOT = Path(__file__).parent.parent
TARGET_SECONDS = 60
SPLITS = {"train": 16_200, "validation": 5_400, "test": 5_400}
"""Of EuroSAT; the same number of images is drawn where it is not at hand."""


def main() -> None:
    """Run the job and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--dataset", choices=["eurosat", "synthetic"], default="eurosat")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--workers", type=int, default=1, help="clients at once on the device")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=0, help="images in all; 0 takes all")
    parser.add_argument("--folder", type=Path, help="where data is kept; default: for this run")
    parser.add_argument("--output", type=Path, default=Path("build/gpu.json"))
    options = parser.parse_args()
    try:
        result = job(options)
    except FedXError as error:
        raise SystemExit(f"{error.code}: {error}") from None
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1, default=str))
    print(table(result))


def job(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare what is missing of the data and run all rounds."""
    settings = config.load(ROOT / "params.yaml", overrides(options))
    pick_device(options.device)  # refuses a GPU that is not there before any work
    with tempfile.TemporaryDirectory(prefix="fedx-bench-") as beside:
        data = options.folder or Path(beside)
        if not (data / options.dataset / "reference").exists():
            for stage in (prepare, partition, reference):
                stage(settings, options.dataset, data)
        reports, seconds = run(settings, data / options.dataset, options.workers)
    return {**vars(options), **measured(reports, seconds, options.device)}


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Say what the job has that params.yaml has not."""
    source = f"datasets.{options.dataset}.source"
    drawn = {f"{source}.{split}": size for split, size in SPLITS.items()}
    return {
        "dataset": options.dataset,
        **(drawn if options.dataset == "synthetic" else {}),
        f"{source}.limit": options.limit,
        "model.name": options.model,
        "training.epochs": 3,
        "training.batch_size": 512,
        "training.device": options.device,
        "federation.rounds": options.rounds,
        "method.warmup_rounds": max(options.rounds // 2, 1),
    }


def run(settings: ExperimentConfig, data: Path, workers: int) -> tuple[list[RoundReport], float]:
    """Run all rounds; returns their reports and the wall seconds from settings to last commit."""
    with tempfile.TemporaryDirectory(prefix="fedx-store-") as store:
        place = Place(store=store, shards=str(data / "shards"), memory=f"{store}/clients")
        started = time.perf_counter()
        setting = Setting(run="gpu", data=data, place=place)
        return list(federate(settings, setting, InProcess(workers))), time.perf_counter() - started


def measured(reports: Sequence[RoundReport], seconds: float, device: str) -> dict[str, Any]:
    """Pick the numbers that are kept; the first round also builds models and moves the shards."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "seconds": seconds,
        "rounds_seconds": [sum(report.seconds.values()) for report in reports],
        "steps_seconds": [dict(report.seconds) for report in reports],
        "accuracy": [report.metrics["overall_accuracy"] for report in reports],
        "machine": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "gpu_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
        "torch": torch.__version__,
    }


def table(result: dict[str, Any]) -> str:
    """Draw one row for a run."""
    rounds = result["rounds_seconds"]
    cells = [
        result["machine"],
        result["dataset"],
        result["model"],
        str(result["workers"]),
        str(len(rounds)),
        f"{result['seconds']:.1f}",
        str(TARGET_SECONDS),
        f"{rounds[0]:.2f}",
        f"{statistics.median(rounds[1:] or rounds):.2f}",
        f"{100 * result['accuracy'][-1]:.1f}",
        f"{result['gpu_bytes'] / 1e9:.1f}",
    ]
    return "\n".join(
        [
            "| machine | data | model | clients at once | rounds | s | target | s, first round | "
            "s, others | accuracy, % | GPU memory of tensors, GB |",
            "| --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
            f"| {' | '.join(cells)} |",
        ]
    )


if __name__ == "__main__":
    main()
