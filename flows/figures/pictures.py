"""Images beside what they are explained by."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.figures import style

SIGNED = "RdBu_r"
"""Red for, blue against; told apart by colour-blind readers too (Brewer)."""
CELL = 1.75
"""Inches."""
_TRUE_COLOURS = (("B04", "B03", "B02"), ("red", "green", "blue"), ("R", "G", "B"))


@dataclass(frozen=True)
class Map:
    """One model's heat map of one image.

    Args:
        relevance: float32 (height, width), signed.
        caption: below it.
    """

    relevance: NDArray[np.floating]
    caption: str


@dataclass(frozen=True)
class Picture:
    """One image and its heat maps, one per model, in the order of the columns.

    Args:
        image: float (height, width, 3) or (height, width), in [0, 1].
        caption: above it: its label.
        maps: of all models.
    """

    image: NDArray[np.floating]
    caption: str
    maps: Sequence[Map]


@style.styled
def heat_maps(models: Sequence[str], pictures: Sequence[Picture]) -> Figure:
    """Draw each image beside its heat maps; the colours of one row share one scale.

    Args:
        models: what each column of heat maps was computed on.
        pictures: at least one, each with one map a model.
    """
    columns = 1 + len(models)
    figure = Figure(
        figsize=(max(columns * CELL, 5.2), len(pictures) * (CELL + 0.42) + 0.9),
        layout="constrained",
    )
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for row, picture in zip(panels, pictures, strict=True):
        size = picture.image.shape[:2]
        extent = (0.0, float(size[1]), float(size[0]), 0.0)
        row[0].imshow(picture.image, cmap="gray", vmin=0, vmax=1, extent=extent)
        row[0].set_xlabel(_short(picture.caption), fontsize=8)
        # Half a percent of pixels may saturate; a single bright one would fade all others.
        values = np.abs(np.concatenate([m.relevance.ravel() for m in picture.maps]))
        limit = float(np.quantile(values, 0.995)) or float(values.max()) or 1.0
        for axes, one in zip(row[1:], picture.maps, strict=True):
            axes.imshow(one.relevance, cmap=SIGNED, vmin=-limit, vmax=limit, extent=extent)
            axes.set_xlabel(one.caption, fontsize=7)
        for axes in row:
            style.plain(axes)
    for axes, name in zip(panels[0], ("image", *models), strict=True):
        axes.set_title(name, loc="center", fontsize=9)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), SIGNED), ax=panels, location="bottom",
        shrink=0.45, aspect=40, pad=0.03,
    )  # fmt: skip
    bar.set_ticks([-1, 0, 1], labels=["against the label", "no relevance", "for the label"])
    return figure


def true_colours(image: NDArray[np.integer], bands: Sequence[str]) -> NDArray[np.float64]:
    """Make a picture of an image of any bands.

    Red, green and blue are found by the bands' names; where there are none, the first three bands
    (or the only one) stand for them. Pixels of one byte are shown as they are; reflectances are
    stretched from the 2nd to the 98th percentile of all three together.

    Args:
        image: (bands, height, width).
        bands: their names.

    Returns:
        (height, width, 3) or (height, width), in [0, 1].
    """
    names = [name.lower() for name in bands]
    chosen = next(
        ([names.index(b.lower()) for b in rgb]
         for rgb in _TRUE_COLOURS if {b.lower() for b in rgb} <= set(names)),
        list(range(3 if len(names) >= 3 else 1)),
    )  # fmt: skip
    pixels = image[chosen].astype(np.float64)
    one_byte = image.dtype == np.uint8
    low, high = (0.0, 255.0) if one_byte else np.quantile(pixels, [0.02, 0.98])
    stretched = np.clip((pixels - low) / max(high - low, 1e-12), 0, 1)
    return stretched[0] if len(chosen) == 1 else np.moveaxis(stretched, 0, -1)


def _short(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 24, max_lines=2, placeholder="…"))
