"""What 16 bits save on a CPU: an epoch of local training with `training.cpu_amp` and without.

    python benchmarks/cpu_amp.py [--models NAME ...] [--pairs N]

Images of noise, RGB at 64 pixels, batches of 64, one thread. Epochs with and without follow each
other, so that other load on the machine meets both. Prints a Markdown table with the medians of a
client's CPU time per image, and their ratio.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedx_core.base import config
from fedx_core.base.config import TrainingConfig
from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.learning.training import fit
from fedx_core.models import catalogue

ROOT = Path(__file__).parent.parent
BATCH, CLASSES, SIDE = 64, 10, 64


def main() -> None:
    """Time what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=catalogue.names(), metavar="NAME",
                        default=["resnet6", "resnet18"], help="default: two ResNets")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=5, help="epochs with and without")
    parser.add_argument("--images", type=int, default=4 * BATCH, help="of an epoch")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(table(chosen.models, chosen.pairs, chosen.images))


def table(models: Sequence[str], pairs: int, images: int) -> str:
    """Return the Markdown table."""
    lines = ["| model | float32, CPU ms an image | cpu_amp | ratio |", "| --- | --: | --: | --: |"]
    for model in models:
        plain, with_amp = (statistics.median(times) for times in timed(model, pairs, images))
        lines.append(f"| {model} | {plain:.2f} | {with_amp:.2f} | {with_amp / plain:.2f} |")
    return "\n".join(lines)


def timed(model: str, pairs: int, images: int) -> tuple[list[float], list[float]]:
    """Time epochs without and with 16 bits, in CPU ms an image; the first of each is left out."""
    training = config.load(ROOT / "params.yaml", {"training.device": "cpu"}).training
    settings = replace(training, epochs=1, batch_size=BATCH)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs + 1):
        for cpu_amp in (False, True):
            started = time.process_time()
            _epoch(model, images, replace(settings, cpu_amp=cpu_amp))
            found[cpu_amp].append(1000 * (time.process_time() - started) / images)
    return found[0][1:], found[1][1:]


def _epoch(model: str, images: int, settings: TrainingConfig) -> None:
    random = np.random.default_rng(1)
    examples = Examples(
        images=random.integers(0, 256, (images, 3, SIDE, SIDE), np.uint8),
        labels=random.integers(0, CLASSES, images),
        groups=np.zeros(images, np.int16),
    )
    pixels = Pixels(
        scale=255.0, mean=(0.5,) * 3, std=(0.3,) * 3,
        input_size=catalogue.entry(model).input_size, memory_format=settings.memory_format,
    )  # fmt: skip
    built = catalogue.build(model, 3, CLASSES, seed=1)
    fit(built, examples, label_kind="single", pixels=pixels, settings=settings, seed=1)


if __name__ == "__main__":
    main()
