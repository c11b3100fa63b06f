"""Sums of pixels from which a normalisation follows; those of two clients add up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import DataError, DomainError
from fedx_core.images.examples import Examples

AT_ONCE = 1 << 22
"""Pixels in memory while moments are summed; changes no result."""


@dataclass(frozen=True)
class Moments:
    """Sums from which mean and deviation of each band follow; those of two sets add up.

    Args:
        count: pixels of each band.
        total: float64 (bands,) sum of pixels, in units of the description's scale.
        total_of_squares: float64 (bands,) sum of their squares.
    """

    count: int
    total: NDArray[np.float64]
    total_of_squares: NDArray[np.float64]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.total_of_squares + other.total_of_squares,
        )


def measure(examples: Examples, scale: float) -> Moments:
    """Sum pixels and their squares over a set, divided by ``scale``, band by band."""
    size, bands, height, width = examples.images.shape
    total = np.zeros(bands, dtype=np.int64)
    squares = np.zeros(bands, dtype=np.int64)
    at_once = max(1, AT_ONCE // max(bands * height * width, 1))
    for start in range(0, size, at_once):
        # Whole numbers add up exactly, so the result does not depend on the size of the chunks.
        pixels = np.asarray(examples.images[start : start + at_once], dtype=np.int64)
        total += pixels.sum(axis=(0, 2, 3))
        squares += np.square(pixels).sum(axis=(0, 2, 3))
    return Moments(size * height * width, total / scale, squares / scale**2)


def check(moments: Moments, images: int, side: int, largest: float, client: str) -> None:
    """Check that some images can have given these sums.

    Args:
        moments: of one client, finite and not negative.
        images: that the client has.
        side: of each, in pixels.
        largest: that a pixel can be, in units of the description's scale.
        client: whose they are.

    Raises:
        DomainError: none can.
    """
    if moments.count != images * side**2:
        raise DomainError(
            f"{client} counts {moments.count} pixels, wanted {images * side**2}: "
            f"{images} images of {side} x {side}"
        )
    total, squares, slack = moments.total, moments.total_of_squares, 1 + 1e-9  # of rounding
    if (total > moments.count * largest * slack).any() or (squares > total * largest * slack).any():
        raise DomainError(
            f"{client} sends sums of pixels larger than {largest:g}, the largest that its images "
            "can hold"
        )
    if (total**2 > squares * moments.count * slack).any():  # Cauchy and Schwarz
        raise DomainError(f"{client} sends sums of pixels whose variance is negative")


def mean_and_std(moments: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each band, over all pixels.

    A band that is constant gets the deviation 1, so that dividing by it does no harm.

    Raises:
        DataError: there are no pixels.
    """
    if not moments.count:
        raise DataError(
            "no images to take mean and deviation from, wanted at least one; raise the data set's "
            "limit or its reference.per_class"
        )
    mean = moments.total / moments.count
    variance = moments.total_of_squares / moments.count - mean**2
    # Rounding leaves up to about 1e-12 of variance where there is none.
    constant = variance <= 1e-12 * np.maximum(mean**2, 1e-12)
    return mean, np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))
