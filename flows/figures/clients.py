"""What each client holds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from flows.figures import style


@style.styled
def labels_by_client(
    class_names: Sequence[str], counts: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
) -> Figure:
    """Draw which share of each client's examples carries each label, and how many it has.

    Args:
        class_names: in label order.
        counts: examples with each label by client; with several labels per image, an example
            counts for each of them.
        sizes: examples by client.
    """
    examples = np.array([[max(sizes[client], 1)] for client in counts])
    shares = np.array(list(counts.values()), dtype=np.float64) / examples
    rows, columns = shares.shape
    figure = Figure(figsize=(style.WIDTH, 1.7 + 0.27 * rows), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[4, 1], sharey=True)
    shown = left.imshow(shares, aspect="auto", cmap="viridis", vmin=0)
    short = [name if len(name) <= 24 else f"{name[:22]}…" for name in class_names]
    left.set_xticks(range(columns), short, rotation=40, ha="right", rotation_mode="anchor")
    left.set_yticks(range(rows), counts)
    left.tick_params(length=0)
    if rows * columns <= 240:
        limit = 0.6 * float(shares.max())
        for row in range(rows):
            for column in range(columns):
                share = shares[row, column]
                colour = "white" if share < limit else "black"
                text = f"{100 * share:.0f}"
                left.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(shown, ax=left, location="top", shrink=0.5, format="{x:.0%}",
                    label="share of the client's examples")  # fmt: skip
    right.barh(range(rows), [sizes[client] for client in counts], color=style.PALETTE[0])
    right.set_xlabel("training examples")
    right.tick_params(axis="y", length=0, labelleft=False)
    style.grid(right, "x")
    return figure
