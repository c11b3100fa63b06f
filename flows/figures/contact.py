"""Contact sheets: a few images of one class, to see with one's own eyes that they are that."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.figures import style

COLUMNS = 6
CELL = 1.3
"""Inches."""


@style.styled
def sheet(title: str, images: Sequence[NDArray[Any]]) -> Figure:
    """Draw images side by side.

    Args:
        title: above them.
        images: at least one, each float (height, width, 3) or (height, width) in [0, 1].
    """
    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * CELL, rows * CELL + 0.6), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels:
        style.plain(axes)
    for axes, image in zip(panels, images, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), x=0.01, ha="left")
    return figure
