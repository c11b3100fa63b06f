"""Draws that respect classes: which class an example counts for, and fair shares of each.

An example of a single-label set counts for its class. One with several labels counts for the rarest
of them, so that rare classes are not lost when a few examples stand for many. One whose pixels have
a class each bears those that occur in it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedx_core.base.errors import ReferenceSetError
from fedx_core.base.seeding import numpy_generator

Indices = NDArray[np.int64]
IGNORED = 255
"""Class index of a pixel that nobody knows the class of."""


def borne(labels: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """Return labels of whole images: as they are, or for maps the classes that occur in each.

    Args:
        labels: int64 (n,), uint8 (n, classes) of 0 and 1, or uint8 (n, height, width).
        classes: how many there are.

    Returns:
        The same, or uint8 (n, classes) of 0 and 1.
    """
    if labels.ndim < 3:
        return labels
    found = np.zeros((len(labels), IGNORED + 1), np.uint8)
    for row, label_map in zip(found, labels, strict=True):
        row[label_map] = 1
    return found[:, :classes]


def pixel_counts(maps: NDArray[np.integer], classes: int) -> Indices:
    """Count the pixels of each class in uint8 (n, height, width), int64 (classes,)."""
    counts = np.zeros(IGNORED + 1, np.int64)
    for label_map in maps:
        counts += np.bincount(label_map.reshape(-1), minlength=IGNORED + 1)
    return counts[:classes]


def label_counts(labels: NDArray[np.integer], classes: int) -> Indices:
    """Count the examples that bear each class, int64 (classes,)."""
    labels = borne(labels, classes)
    if labels.ndim == 2:
        return np.asarray(labels.sum(axis=0, dtype=np.int64))
    return np.bincount(labels, minlength=classes).astype(np.int64)


def strata(labels: NDArray[np.integer], counts: NDArray[np.int64] | None = None) -> Indices:
    """Give the class that each example counts for.

    Args:
        labels: int (n,) class indices, or 0/1 (n, classes).
        counts: how often each class occurs, which decides what is rare; taken from ``labels`` if
            left out.

    Returns:
        int64 (n,). Ties of rarity go to the lower class; an example without any label gets the
        index one past the last class.
    """
    if labels.ndim == 1:
        return labels.astype(np.int64)
    classes = labels.shape[1]
    if counts is None:
        counts = label_counts(labels, classes)
    rarest_first = np.argsort(counts, kind="stable")
    ranked = labels[:, rarest_first].astype(bool)
    first = ranked.argmax(axis=1)
    return np.asarray(np.where(ranked.any(axis=1), rarest_first[first], classes), dtype=np.int64)


def apportion(total: int, weights: ArrayLike) -> Indices:
    """Share out ``total`` whole things by weight, largest remainders first, ties by index.

    Args:
        total: things to give away.
        weights: float (k,), not negative; equal shares if all are zero.

    Returns:
        int64 (k,) that sums to ``total``; each within one of its exact share.
    """
    share = np.asarray(weights, dtype=np.float64)
    if not share.any():
        share = np.ones_like(share)
    exact = total * (share / share.sum())
    given: Indices = np.floor(exact + 1e-9).astype(np.int64)
    neediest = np.argsort(-(exact - given), kind="stable")
    given[neediest[: total - int(given.sum())]] += 1
    return given


def split(groups: NDArray[np.int64], weights: Sequence[float], seed: int) -> list[Indices]:
    """Part examples at random so that each part gets its share of each stratum.

    Args:
        groups: int64 (n,) the stratum of each example.
        weights: share of each part.
        seed: of the draw.

    Returns:
        Sorted indices of each part; every example lies in exactly one.
    """
    generator = numpy_generator(seed)
    parts: list[list[Indices]] = [[] for _ in weights]
    for stratum in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == stratum))
        borders = np.cumsum(apportion(len(members), weights))[:-1]
        for part, chosen in zip(parts, np.split(members, borders), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate([*part, np.empty(0, np.int64)])) for part in parts]


def thin(groups: NDArray[np.int64], origins: NDArray[np.integer], count: int, seed: int) -> Indices:
    """Choose ``count`` examples that keep the mix of strata and, within each, of origins.

    Args:
        groups: int64 (n,) the stratum of each example.
        origins: int (n,) where it comes from, such as its country.
        count: examples to keep, at most ``n``.
        seed: of the draw.

    Returns:
        Sorted indices, int64 (count,).
    """
    generator = numpy_generator(seed)
    present, sizes = np.unique(groups, return_counts=True)
    chosen = [np.empty(0, np.int64)]
    for stratum, size, quota in zip(present, sizes, apportion(count, sizes), strict=True):
        members = generator.permutation(np.flatnonzero(groups == stratum))
        members = members[np.argsort(origins[members], kind="stable")]
        # Every size/quota-th of a list sorted by origin gives each origin its share.
        steps = (np.arange(quota) + generator.random()) * (size / max(quota, 1))
        chosen.append(members[steps.astype(np.int64)])
    return np.sort(np.concatenate(chosen))


def per_class(
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    count: int,
    seed: int,
    *,
    skip_absent: bool = False,
) -> Indices:
    """Draw ``count`` examples of each class, the rarest class first, none twice.

    A class with fewer than ``count`` examples left gives all of them.

    Args:
        labels: int (n,) class indices, 0/1 (n, classes), or maps of classes (n, height, width).
        class_names: in label order.
        count: examples of each class.
        seed: of the draw.
        skip_absent: leave out classes without any example, unless all are.

    Returns:
        Sorted indices, int64.

    Raises:
        ReferenceSetError: a class has no example at all.
    """
    labels = borne(labels, len(class_names))
    counts = label_counts(labels, len(class_names))
    absent = [name for name, found in zip(class_names, counts, strict=True) if not found]
    if absent and not (skip_absent and len(absent) < len(class_names)):
        raise ReferenceSetError(
            f"{len(absent)} of {len(class_names)} classes have no image in the validation split: "
            f"{'; '.join(absent)}; raise the data set's limit or its validation size, drop these "
            "classes, or set its reference.absent to skip"
        )
    generator = numpy_generator(seed)
    free = np.ones(len(labels), dtype=bool)
    for index in np.argsort(counts, kind="stable"):
        bears = labels[:, index] > 0 if labels.ndim == 2 else labels == index
        candidates = generator.permutation(np.flatnonzero(bears & free))
        free[candidates[:count]] = False
    return np.flatnonzero(~free)
