"""What a model scores that says a class for each pixel: by one confusion matrix.

Each image is tallied by itself, so that maps of logits, which outweigh the images, are never kept.
All scores follow from the sum of the tallies, so they are the same however images are batched.

Source: Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010, section 4.2
(intersection over union).
"""

from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

from fedx_core.images.strata import IGNORED


def tally(logits: Tensor, maps: Tensor) -> Tensor:
    """Count what was said of each image's pixels, whose class is known.

    Args:
        logits: float32 (n, classes, height, width), on the CPU.
        maps: int64 (n, height, width); ``IGNORED`` where nobody knows the class.

    Returns:
        float64 (n, classes, classes + 1): pixels by their class and the class that was said; and
        last, the sum of their cross-entropy by their class.
    """
    images, classes = logits.shape[:2]
    image = torch.arange(images).reshape(-1, 1, 1).expand_as(maps)
    known = maps != IGNORED
    row = (image * classes + maps)[known]
    said = logits.argmax(1)[known]
    counts = torch.bincount(row * classes + said, minlength=images * classes * classes)
    losses = functional.cross_entropy(logits, maps, ignore_index=IGNORED, reduction="none")
    sums = torch.bincount(row, losses[known].double(), minlength=images * classes)
    return torch.cat(
        [counts.reshape(images, classes, classes), sums.reshape(images, classes, 1)], 2
    )


def metrics(tallies: Tensor) -> dict[str, float | None]:
    """Score a model by the tallies of all images.

    Args:
        tallies: of :func:`tally`, float64 (n, classes, classes + 1).

    Returns:
        ``mean_iou`` (over the classes that occur or are said), ``pixel_accuracy`` and ``loss``;
        None where no pixel's class is known.
    """
    return {**shares(confusion(tallies)), "loss": loss(tallies)}


def loss(tallies: Tensor) -> float:
    """Return the mean cross-entropy of pixels whose class is known; NaN where there are none."""
    return float(tallies[:, :, -1].sum() / tallies[:, :, :-1].sum())


def per_class(tallies: Tensor) -> list[float | None]:
    """Return intersection over union of each class; None where it neither occurs nor is said."""
    return overlaps(confusion(tallies))


def confusion(tallies: Tensor) -> Tensor:
    """Return pixels by their class and the class that was said, int64 (classes, classes)."""
    return tallies[:, :, :-1].sum(0).long()


def shares(counts: Tensor) -> dict[str, float | None]:
    """Score by a confusion matrix all that follows from one: :func:`metrics` but the loss.

    Matrices of several parts, or of several models, add up to that of all their pixels; their
    scores do not, since a mean of quotients is not the quotient of sums.

    Args:
        counts: of :func:`confusion`.
    """
    pixels = int(counts.sum())
    found = [score for score in overlaps(counts) if score is not None]
    return {
        "mean_iou": fmean(found) if found else None,
        "pixel_accuracy": int(counts.trace()) / pixels if pixels else None,
    }


def overlaps(counts: Tensor) -> list[float | None]:
    """Score each class by a confusion matrix; see :func:`per_class`."""
    hits = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - hits
    return [
        hit / union if union else None
        for hit, union in zip(hits.tolist(), either.tolist(), strict=True)
    ]
