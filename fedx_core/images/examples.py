"""Images with their labels, groups and description, in memory."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import DataError
from fedx_core.images import set_manifest, strata
from fedx_core.images.label_values import LabelKind
from fedx_core.images.set_manifest import check_names

Image = NDArray[np.integer]
"""uint8 or uint16 (bands, height, width)."""


@dataclass(frozen=True)
class Examples:
    """Images with labels and the group (country) that each came from.

    Args:
        images: uint8 or uint16 (n, bands, height, width), bands in the description's order; may be
            memory-mapped, and is never written to.
        labels: int64 (n,) class index for single-label data; uint8 (n, classes) of 0 and 1 for
            multi-label data; uint8 (n, height, width) class index of each pixel or
            ``strata.IGNORED``, memory-mapped as images are.
        groups: int16 (n,) index into the description's ``group_names``; zeros where there are none.
    """

    images: NDArray[np.integer]
    labels: NDArray[np.integer]
    groups: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageStream:
    """Examples whose images come one by one, for sets that don't fit in memory.

    Args:
        images: as many as there are labels, each uint8 or uint16 (bands, height, width).
        labels: as in :class:`Examples`.
        groups: as in :class:`Examples`.
        names: of the files they come from; empty where there are none.
    """

    images: Iterable[Image]
    labels: NDArray[np.integer]
    groups: NDArray[np.int16]
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a data set apart from its pixels.

    Args:
        name: of the data set.
        bands: names in the images' order, such as ``B02``.
        class_names: in label order.
        label_kind: one label per image, any number, or one per pixel.
        image_size: side in pixels.
        scale: pixel value that maps to 1.0 (255 for RGB, 10,000 for reflectance).
        group_names: countries or other origins; empty where unknown.
        published_mean: per band in units of ``scale`` (after division); None where nobody did.
        published_std: likewise.
        licence: of the data.
        citation: how the authors want to be cited.
        source: where the pixels were read from, as the user named it.
        value_range: values that pixels of 0 and of ``scale`` stand for; empty stands for (0, 1).
    """

    name: str
    bands: tuple[str, ...]
    class_names: tuple[str, ...]
    label_kind: LabelKind
    image_size: int
    scale: float
    group_names: tuple[str, ...] = ()
    published_mean: tuple[float, ...] | None = None
    published_std: tuple[float, ...] | None = None
    licence: str = ""
    citation: str = ""
    source: str = ""
    value_range: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for what, names, most in (
            ("bands", self.bands, set_manifest.MOST_BANDS),
            ("classes", self.class_names, set_manifest.MOST_CLASSES),
            ("groups", self.group_names, set_manifest.MOST_CLASSES),
        ):
            check_names(what, names, most)
        if not 1 <= self.image_size <= set_manifest.LARGEST_SIDE:
            raise DataError(
                f"images of {self.image_size} pixels a side, wanted 1 to "
                f"{set_manifest.LARGEST_SIDE:,}"
            )
        if self.label_kind == "pixels" and len(self.class_names) > strata.IGNORED:
            raise DataError(
                f"{len(self.class_names)} classes of pixels, wanted {strata.IGNORED} at most: a "
                "byte names them, and its last value says that a pixel has none; join some"
            )
        if not 0 < self.scale < math.inf:
            raise DataError(f"scale must be positive and finite, got {self.scale}")

    @property
    def pixel_dtype(self) -> np.dtype[Any]:
        """One byte per pixel where ``scale`` fits in it, else two."""
        return np.dtype("|u1" if self.scale <= 255 else "<u2")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        return (len(self.bands), self.image_size, self.image_size)


def select(examples: Examples, indices: NDArray[np.integer]) -> ImageStream:
    """Take some examples in the order of ``indices``; images are read when they are asked for."""
    images = np.asarray(examples.images)
    return ImageStream(
        (images[index] for index in indices), examples.labels[indices], examples.groups[indices]
    )
