"""What a model scores on examples that it was not trained on.

A score that can't be computed, such as one over the labels of images that bear none, is left out of
what is returned; it is never NaN. :func:`left_out` names it.
"""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core.images.examples import Examples
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels
from fedx_core.learning import pixel_scores
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain

PRIMARY: Mapping[LabelKind, str] = {
    "single": "overall_accuracy", "multi": "micro_map", "pixels": "mean_iou",
}  # fmt: skip
"""The metric that the paper reports for each kind of label; for pixels, the field's."""

METRICS: Mapping[LabelKind, tuple[str, ...]] = {
    "single": ("overall_accuracy", "macro_f1", "loss"),
    "multi": ("micro_map", "macro_map", "macro_f1", "loss"),
    "pixels": ("mean_iou", "pixel_accuracy", "loss"),
}
"""What :func:`metrics` yields."""
SCORES: Mapping[LabelKind, Mapping[str, Domain]] = {
    kind: {
        name: domains.LOSS if name == "loss" else domains.SHARE
        for name in names
        if name == "loss" or kind != "pixels"
    }
    for kind, names in METRICS.items()
}
"""What a client may report of its test part; any other number is refused.

The shares of pixels follow from counts that it sends (:mod:`fedx_core.asks.evaluate`)."""
LOWER_IS_BETTER = frozenset({"loss"})
NO_LABEL = "since no image of the test part bears a label"
"""Why a score of several labels is left out."""


def predict(
    model: nn.Module,
    examples: Examples,
    *,
    pixels: Pixels,
    batch_size: int,
    device: torch.device,
    workers: int = 1,
    tallied: bool = False,
) -> Tensor:
    """Run a model over examples in evaluation mode.

    Args:
        model: its training flag is put back afterwards.
        examples: any number of images.
        pixels: how images become inputs.
        batch_size: images at once; results do not depend on ``workers``.
        device: where the model runs; it is left on the CPU.
        workers: threads, each with one thread of torch.
        tallied: the model says a class for each pixel, and ``examples`` have them as labels.

    Returns:
        Logits, float32 (n, classes), on the CPU; or :func:`fedx_core.learning.pixel_scores.tally`.
    """
    was_training = model.training
    model.to(device).eval()
    starts = range(0, len(examples), batch_size)

    def one(start: int) -> Tensor:
        torch.set_num_threads(1)
        with torch.inference_mode():
            images = np.asarray(examples.images[start : start + batch_size])
            logits: Tensor = model(pixels.to_input(images, device)).float().cpu()
            if not tallied:
                return logits
            maps = np.array(examples.labels[start : start + batch_size])
            return pixel_scores.tally(logits, torch.from_numpy(maps).long())

    if workers > 1 and device.type == "cpu":
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(one, starts))
    else:
        threads = torch.get_num_threads()
        parts = [one(start) for start in starts]
        torch.set_num_threads(threads)
    model.to("cpu").train(was_training)
    return torch.cat(parts).clone() if parts else torch.empty(0, 0)


def metrics(logits: Tensor, labels: NDArray[np.integer], label_kind: LabelKind) -> dict[str, float]:
    """Score predictions as the paper does, and a little more.

    Args:
        logits: of :func:`predict`: float (n, classes), or tallies of pixels.
        labels: int64 (n,) or 0/1 (n, classes); tallies know theirs.
        label_kind: decides the metrics.

    Returns:
        For single labels ``overall_accuracy``, ``macro_f1`` and ``loss``; for many labels
        ``micro_map``, ``macro_map``, ``macro_f1`` (at probability one half) and ``loss``; for
        pixels ``mean_iou``, ``pixel_accuracy`` and ``loss``. Classes that do not occur are left out
        of macro averages, and scores that can't be computed are left out: all of no image or of one
        class, those over labels where no image bears one.
    """
    if not len(labels) or logits.shape[1] < 2:
        return {}
    return _finite(_metrics(logits, labels, label_kind))


def left_out(found: Mapping[str, float]) -> list[str]:
    """Name the scores that :func:`metrics` could not compute; the kind of label is seen from them.

    Images with several labels can bear none, so where no other kind's score is, they have several.
    """
    kinds = (kind for kind in PRIMARY if PRIMARY[kind] in found)
    kind: LabelKind = next(kinds, "multi")
    return [name for name in METRICS[kind] if name not in found]


def _metrics(
    logits: Tensor, labels: NDArray[np.integer], label_kind: LabelKind
) -> dict[str, float | None]:
    if label_kind == "pixels":
        return pixel_scores.metrics(logits)
    classes = logits.shape[1]
    targets = torch.from_numpy(np.array(labels)).long()
    if label_kind == "single":
        predicted = logits.argmax(1)
        return {
            "overall_accuracy": float((predicted == targets).double().mean()),
            "macro_f1": _macro_f1(predicted, targets, classes),
            "loss": loss(logits, labels, label_kind),
        }
    from torchmetrics.functional import classification as tm

    present = targets.any(0)
    probabilities = logits.double().sigmoid()
    f1 = tm.multilabel_f1_score(probabilities, targets, classes, average="none")
    return {
        "micro_map": _micro_average_precision(probabilities, targets),
        "macro_map": _mean(_average_precision(probabilities, targets)),
        "macro_f1": float(f1[present].mean()) if present.any() else None,
        "loss": loss(logits, labels, label_kind),
    }


def loss(logits: Tensor, labels: NDArray[np.integer], label_kind: LabelKind) -> float:
    """Return the mean loss that training lowers; NaN where the logits are, or there are none."""
    if label_kind == "pixels":
        return pixel_scores.loss(logits)
    targets = torch.from_numpy(np.array(labels))
    if label_kind == "single":
        return float(nn.functional.cross_entropy(logits, targets.long()))
    return float(nn.functional.binary_cross_entropy_with_logits(logits, targets.float()))


def per_class(
    logits: Tensor, labels: NDArray[np.integer], label_kind: LabelKind
) -> list[float | None]:
    """Score each class; None if absent.

    Recall for single labels, average precision for many, intersection over union for pixels.
    """
    if label_kind == "pixels":
        return pixel_scores.per_class(logits)
    targets = torch.from_numpy(np.array(labels)).long()
    if logits.shape[1] < 2:
        return [None] * logits.shape[1]
    if label_kind == "single":
        predicted = logits.argmax(1)
        return [
            float((predicted[targets == index] == index).double().mean())
            if bool((targets == index).any())
            else None
            for index in range(logits.shape[1])
        ]
    return _average_precision(logits.double().sigmoid(), targets)


def label_frequency_scores(
    frequencies: NDArray[np.floating], labels: NDArray[np.integer]
) -> dict[str, float]:
    """Score a predictor that has seen no image and knows only how frequent each label is.

    Args:
        frequencies: share of images with each label, (classes,), from the validation split.
        labels: 0/1 (n, classes) of the test split.

    Returns:
        ``label_frequency_micro_map`` and ``label_frequency_macro_map``; nothing where no image
        bears a label.
    """
    targets = torch.from_numpy(np.array(labels)).long()
    constant = torch.from_numpy(np.array(frequencies)).double().expand(len(targets), -1)
    return _finite(
        {
            "label_frequency_micro_map": _micro_average_precision(constant, targets),
            "label_frequency_macro_map": _mean(_average_precision(constant, targets)),
        }
    )


def label_frequency_precision(
    frequencies: NDArray[np.floating], counts: NDArray[np.integer], images: int
) -> float | None:
    """Score the same predictor in micro average precision from counts of labels alone.

    It gives all images the same scores, so the order of labels decides: each one that is added
    brings as many predictions as there are images, of which those that bear it are right.

    Args:
        frequencies: share of images with each label where it was learned, (classes,).
        counts: images that bear each label where it is scored, (classes,).
        images: there.

    Returns:
        None where no image bears a label.
    """
    total = int(counts.sum())
    if not total or not images:
        return None
    precision, hits, predicted = 0.0, 0, 0
    for frequency in np.unique(frequencies)[::-1]:  # labels of equal frequency come together
        alike = frequencies == frequency
        here = int(counts[alike].sum())
        hits, predicted = hits + here, predicted + images * int(alike.sum())
        precision += here / total * hits / predicted
    return precision


def _macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> float:
    """Average F1 over the classes that occur or are predicted.

    The bits of torchmetrics, whose import alone takes a second and 85 MB: it brings SciPy's signal
    processing and Matplotlib along. Average precision, which has more to it, is left to it.
    """
    hits = torch.bincount(targets[predicted == targets], minlength=classes)
    either = torch.bincount(predicted, minlength=classes) + torch.bincount(
        targets, minlength=classes
    )
    seen = either > 0
    f1 = torch.where(seen, 2.0 * hits / either.float(), 0.0)
    return float((f1 / seen.sum()).sum())


def _micro_average_precision(probabilities: Tensor, targets: Tensor) -> float | None:
    if not targets.any():
        return None
    from torchmetrics.functional import classification as tm

    classes = targets.shape[1]
    return float(tm.multilabel_average_precision(probabilities, targets, classes, average="micro"))


def _average_precision(probabilities: Tensor, targets: Tensor) -> list[float | None]:
    from torchmetrics.functional import classification as tm

    return [
        float(tm.binary_average_precision(probabilities[:, index], targets[:, index]))
        if bool(targets[:, index].any())
        else None
        for index in range(targets.shape[1])
    ]


def _mean(scores: Iterable[float | None]) -> float | None:
    present = [score for score in scores if score is not None]
    return fmean(present) if present else None


def _finite(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {n: score for n, score in scores.items() if score is not None and math.isfinite(score)}
