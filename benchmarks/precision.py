"""Whether rounding chooses units: LRP's scores in float32 beside those in float64.

    python benchmarks/precision.py [--models NAME ...] [--images N] [--steps N] [--json FILE]

Each model is explained with random weights and again after a few steps of training, on synthetic
scenes drawn with a fixed seed. Where two ways of computing the same scores end in different masks,
the last bits have chosen. By how much the scores of such units are apart says whether they were as
good as equal (float32 tells no less than 1e-7) or rounding has grown. Compared are float32 with
float64; and the criterion as it is by default, all images in one batch, with the same one image at
a time. A mask is that of one event at a pruning rate q. Prints a Markdown table; nothing is timed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedx_core.pruning.masks import Scores

RATES = (0.2, 0.5, 0.8)
IMAGES = {"vit_base_patch16_224": 2}
STEPS = {"vit_base_patch16_224": 5}
"""Of the heaviest model; 10 images and 20 steps for the others."""

BATCH = {"vit_base_patch16_224": 2}
"""Images of a step; 16 for the others."""


def main() -> None:
    """Compare what is asked for and print the table."""
    from fedx_core.models import catalogue

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=catalogue.names(), metavar="NAME",
                        default=catalogue.names(), help="default: all")  # fmt: skip
    parser.add_argument("--images", type=int, help="to explain; default: 10; 2 for ViT")
    parser.add_argument("--steps", type=int, help="of training; default: 20; 5 for ViT")
    parser.add_argument("--json", type=Path, help="keep the numbers here")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.models:
        print(name, file=sys.stderr)
        images = options.images or IMAGES.get(name, 10)
        steps = STEPS.get(name, 20) if options.steps is None else options.steps
        rows += compare(name, images, steps, BATCH.get(name, 16))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


def compare(name: str, images: int, steps: int, batch: int) -> Iterator[dict[str, Any]]:
    """Explain a model before and after training.

    Args:
        name: a model of the catalogue.
        images: to explain.
        steps: of training; with 0 the model is explained once.
        batch: images of a step.

    Yields:
        The largest absolute score by precision, the units in all, and by comparison how many of
        them differ at each of :data:`RATES`; and how far apart those of float32 and float64 are.
    """
    from fedx_core.models import catalogue
    from fedx_core.relevance import lrp
    from fedx_core.relevance.base import Reference

    entry, model = catalogue.entry(name), catalogue.build(name, 3, 10, seed=1)
    graph = entry.graph(model)
    pixels, labels = scenes(images + steps * batch, entry.input_size or 64)
    reference = Reference(pixels[:images], labels[:images])

    def scores(precision: lrp.Precision, at_once: int) -> "Scores":
        criterion = lrp.Criterion(precision=precision)
        return criterion.score(model, graph, entry, reference, seed=0, batch_size=at_once)

    for trained in (0, steps) if steps else (0,):
        if trained:
            train(model, pixels[images:], labels[images:], batch)
        single, double = scores("model", images), scores("float64", images)
        yield {
            "model": name,
            "steps": trained,
            "images": images,
            "units": sum(len(score) for score in double.values()),
            "largest": {"float32": largest(single), "float64": largest(double)},
            "precisions": differing(single, double),
            "apart": apart(single, double),
            "batches": differing(scores("auto", images), scores("auto", 1)),
        }


def scenes(count: int, size: int) -> tuple["Tensor", "Tensor"]:
    """Draw scenes, normalised: float32 (count, 3, size, size) and int64 (count,)."""
    import numpy as np
    import torch

    from fedx_core.data.synthetic import DataSet

    drawn = DataSet(train=count, image_size=size).open().splits["train"]
    pixels = torch.from_numpy(np.stack(list(drawn.read(np.arange(count))))).float()
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    normalised = (pixels - mean[:, None, None]) / deviation[:, None, None]
    return normalised, torch.from_numpy(np.asarray(drawn.labels, dtype=np.int64))


def train(model: "nn.Module", pixels: "Tensor", labels: "Tensor", batch: int) -> None:
    """Take a step of Adam for each batch."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for images, targets in zip(pixels.split(batch), labels.split(batch), strict=True):
        optimiser.zero_grad()
        functional.cross_entropy(model(images), targets).backward()
        optimiser.step()
    model.eval()


def largest(scores: "Scores") -> float:
    """Return the largest absolute score of all units."""
    return max(float(score.abs().max()) for score in scores.values())


def differing(one: "Scores", other: "Scores") -> list[int]:
    """Count the units that are in just one of two masks, at each of :data:`RATES`."""
    return [sum(int(d.sum()) for d in found.values()) for found in differences(one, other)]


def apart(one: "Scores", other: "Scores") -> float:
    """Measure by how much of the largest ``other``'s scores differ among units that changed places.

    The widest of all layers and rates; 0 where the masks are the same.
    """
    widest = 0.0
    for found in differences(one, other):
        for name, differ in found.items():
            if differ.any():
                scores = other[name][differ].double().abs()
                widest = max(widest, float((scores.max() - scores.min()) / scores.max()))
    return widest


def differences(one: "Scores", other: "Scores") -> list[dict[str, "Tensor"]]:
    """Say by layer which units are in just one of two masks, at each of :data:`RATES`."""
    from fedx_core.pruning.masks import keep_highest

    masks = [[keep_highest(s, rate).entries for s in (one, other)] for rate in RATES]
    return [{name: a[name] != b[name] for name in one} for a, b in masks]


def table(rows: list[dict[str, Any]]) -> str:
    """Draw the comparisons; counts are those of the masks at :data:`RATES`, in order."""
    rates = ", ".join(map(str, RATES))
    lines = [
        "| model | steps | images | units | largest score, float32 | float64 | "
        f"float32 / float64 differ at {rates} | apart | by default, batch / single differ |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        cells = [
            row["model"],
            str(row["steps"]),
            str(row["images"]),
            f"{row['units']:,}",
            f"{row['largest']['float32']:.3g}",
            f"{row['largest']['float64']:.3g}",
            ", ".join(map(str, row["precisions"])),
            f"{row['apart']:.0e}" if row["apart"] else "-",
            ", ".join(map(str, row["batches"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
