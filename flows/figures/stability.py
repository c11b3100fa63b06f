"""How far masks agree."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.figures import style


@style.styled
def agreement(
    names: Sequence[str], found: NDArray[np.floating], by_chance: NDArray[np.floating]
) -> Figure:
    """Draw a matrix of Jaccard indices, each over what chance would give.

    Args:
        names: of the masks.
        found: float (n, n) in [0, 1]; NaN where two masks can't be compared.
        by_chance: likewise, expected of masks that keep as many units drawn at random.
    """
    count = len(names)
    longest = max(map(len, names))
    side = 0.8 * count + 0.075 * longest
    figure = Figure(figsize=(max(side + 1.6, 4.0), max(side, 2.4)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(np.ma.masked_invalid(found), vmin=0, vmax=1, cmap="viridis")
    for row in range(count):
        for column in range(count):
            if np.isnan(found[row, column]):
                axes.text(column, row, "-", ha="center", va="center")
                continue
            # Viridis is dark in its lower half.
            colour = "white" if found[row, column] < 0.6 else "black"
            text = f"{found[row, column]:.2f}"
            if row != column:
                text += f"\n({by_chance[row, column]:.2f})"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(count), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(shown, ax=axes, label="Jaccard index (by chance)", shrink=0.8)
    return figure
