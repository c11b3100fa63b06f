"""Images with their labels, in memory or memory-mapped, and the description that goes with them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LabelKind = Literal["single", "multi"]


@dataclass(frozen=True)
class Examples:
    """Images with labels and the group (country) that each came from.

    Args:
        images: uint8 or uint16 (n, bands, height, width), bands in the description's order; may be
            memory-mapped, and is never written to.
        labels: int64 (n,) class index for single-label data; uint8 (n, classes) of 0 and 1 for
            multi-label data.
        groups: int16 (n,) index into the description's ``group_names``; zeros where there are none.
    """

    images: NDArray[np.integer]
    labels: NDArray[np.integer]
    groups: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a data set apart from its pixels.

    Args:
        name: of the data set.
        bands: names in the images' order, such as ``B02``.
        class_names: in label order.
        label_kind: one label an image, or any number.
        image_size: side in pixels.
        scale: pixel value that maps to 1.0 (255 for RGB, 10,000 for reflectance).
        group_names: countries or other origins; empty where unknown.
        published_mean: per band in units of ``scale`` (after division); None where nobody did.
        published_std: likewise.
        licence: of the data.
        citation: how the authors want to be cited.
        source: where the pixels were read from, as the user named it.
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
