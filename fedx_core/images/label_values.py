"""What values labels may have, by their kind."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedx_core.images.strata import IGNORED

LabelKind = Literal["single", "multi", "pixels"]
"""One class an image, any number of them, or one for each pixel."""

_MAPS = 256
"""Maps of classes that are looked at together."""


def fit(labels: NDArray[np.integer], kind: LabelKind, classes: int, side: int) -> tuple[bool, str]:
    """Say whether labels are of a kind, and in words what would be.

    Args:
        labels: of some images.
        kind: that they are to be of.
        classes: how many there are.
        side: of the images in pixels.
    """
    if kind == "single":
        fits = labels.ndim == 1 and below(labels, classes)
        return fits, f"one class index below {classes} for each image"
    if kind == "multi":
        fits = labels.ndim == 2 and labels.shape[1] == classes and below(labels, 2)
        return fits, f"0 or 1 for each image and each of {classes} classes"
    shape = (len(labels), side, side)
    fits = labels.shape == shape and labels.dtype == np.uint8 and _maps_below(labels, classes)
    return fits, f"{shape}, for each pixel a class index below {classes} or {IGNORED}"


def below(values: NDArray[np.integer], bound: int) -> bool:
    """Tell whether all values are 0 or more, and less than a bound."""
    return not values.size or bool(values.min() >= 0 and values.max() < bound)


def _maps_below(maps: NDArray[np.integer], bound: int) -> bool:
    """Tell whether all pixels' classes lie below a bound or are ignored; as if ``IGNORED`` were -1.

    Block by block, since maps may exceed the memory.
    """
    blocks = (maps[start : start + _MAPS] for start in range(0, len(maps), _MAPS))
    return all(int((block + np.uint8(1)).max(initial=0)) <= bound for block in blocks)
