"""Scores of pixels, restated from their definitions: sets of pixels, one class after another."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.learning import evaluation, pixel_scores

CLASSES = 4


def answers(seed: int, images: int = 5) -> tuple[Tensor, Tensor]:
    """Logits and maps of which a fifth is unknown, and the last class never occurs or is said."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, CLASSES, 6, 7, generator=random)
    logits[:, -1] = -20
    maps = torch.randint(0, CLASSES - 1, (images, 6, 7), generator=random)
    maps[torch.rand(maps.shape, generator=random) < 0.2] = 255
    return logits, maps


def by_definition(logits: Tensor, maps: Tensor) -> dict[str, Any]:
    """Intersection over union of each class as sets of pixels, and all that follows."""
    pixels = [
        (image, row, column)
        for image in range(len(maps))
        for row in range(maps.shape[1])
        for column in range(maps.shape[2])
        if int(maps[image, row, column]) != 255
    ]
    true, said = {}, {}
    loss = 0.0
    for image, row, column in pixels:
        scores = [float(v) for v in logits[image, :, row, column]]
        label = int(maps[image, row, column])
        true[image, row, column] = label
        said[image, row, column] = scores.index(max(scores))
        loss -= scores[label] - float(np.log(np.exp(scores).sum()))
    by_class: list[float | None] = []
    for index in range(CLASSES):
        bears = {p for p in pixels if true[p] == index}
        says = {p for p in pixels if said[p] == index}
        by_class.append(len(bears & says) / len(bears | says) if bears | says else None)
    occur = [score for score in by_class if score is not None]
    return {
        "per_class": by_class,
        "mean_iou": sum(occur) / len(occur),
        "pixel_accuracy": sum(true[p] == said[p] for p in pixels) / len(pixels),
        "loss": loss / len(pixels),
    }


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_definition(seed: int) -> None:
    logits, maps = answers(seed)
    wanted = by_definition(logits, maps)
    tallies = pixel_scores.tally(logits, maps)
    assert pixel_scores.per_class(tallies) == wanted.pop("per_class")
    found = evaluation.metrics(tallies, maps.numpy(), "pixels")
    assert found.keys() == wanted.keys() == set(evaluation.METRICS["pixels"])
    assert found["mean_iou"] == pytest.approx(wanted["mean_iou"], abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(wanted["pixel_accuracy"], abs=1e-12)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert evaluation.left_out(found) == []


def test_tallies_of_parts_add_up_to_those_of_the_whole_and_score_the_same() -> None:
    logits, maps = answers(9)
    whole = pixel_scores.tally(logits, maps)
    parts = torch.cat(
        [pixel_scores.tally(logits[i : i + 2], maps[i : i + 2]) for i in range(0, 5, 2)]
    )
    assert torch.equal(whole, parts)
    assert whole.dtype == torch.float64
    assert int(whole[:, :, :-1].sum()) == int((maps != 255).sum())


def test_a_class_that_is_said_and_never_occurs_scores_nothing_and_counts() -> None:
    maps = torch.zeros(1, 2, 2, dtype=torch.long)
    logits = nn.functional.one_hot(torch.tensor([[[0, 0], [0, 1]]]), 3).movedim(3, 1).float()
    tallies = pixel_scores.tally(logits, maps)
    assert pixel_scores.per_class(tallies) == [0.75, 0.0, None]
    assert evaluation.metrics(tallies, maps.numpy(), "pixels")["mean_iou"] == 0.375


def test_maps_without_any_known_pixel_have_no_score() -> None:
    logits, maps = answers(1)
    tallies = pixel_scores.tally(logits, torch.full_like(maps, 255))
    assert evaluation.metrics(tallies, maps.numpy(), "pixels") == {}
    assert pixel_scores.per_class(tallies) == [None] * CLASSES
    empty = torch.empty(0, 0)
    assert evaluation.metrics(empty, np.empty((0, 6, 7), np.uint8), "pixels") == {}


class Shifted(nn.Module):
    """Logits that are the image's own bands."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


@pytest.mark.parametrize(("batch", "workers"), [(2, 1), (3, 2), (100, 1)])
def test_a_model_is_scored_the_same_in_any_batches_by_any_workers(batch: int, workers: int) -> None:
    random = np.random.default_rng(3)
    images: NDArray[np.uint8] = random.integers(0, 256, (7, CLASSES, 5, 5), dtype=np.uint8)
    maps = random.integers(0, CLASSES, (7, 5, 5)).astype(np.uint8)
    maps[0, 0] = 255
    pixels = Pixels(
        scale=255.0, mean=(0.5,) * CLASSES, std=(0.25,) * CLASSES, input_size=None,
        memory_format="contiguous",
    )  # fmt: skip
    examples = Examples(images, maps, np.zeros(7, np.int16))
    found = evaluation.predict(
        Shifted(), examples, pixels=pixels, batch_size=batch, device=torch.device("cpu"),
        workers=workers, tallied=True,
    )  # fmt: skip
    known = maps != 255
    right = (images.argmax(1) == maps)[known].mean()
    scored = evaluation.metrics(found, maps, "pixels")
    assert scored["pixel_accuracy"] == pytest.approx(float(right))
    inputs = pixels.to_input(images, torch.device("cpu"))
    wanted = by_definition(inputs, torch.from_numpy(maps).long())
    assert evaluation.per_class(found, maps, "pixels") == wanted["per_class"]
