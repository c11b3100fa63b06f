"""Layer by layer: units kept and pruned, and the scores that decided about them."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from flows.figures import style

BINS = 48

Layers = Mapping[str, tuple[int, int]]
"""(kept, all) units by layer, or weights where those are pruned, in the model's order."""


@style.styled
def units_by_layer(runs: Mapping[str, Layers], note: str = "") -> Figure:
    """Stack kept and pruned units layer by layer, one panel a run (the paper's Fig. 3).

    Args:
        runs: by the name to show; at least one, each with at least one layer.
        note: above the figure.
    """
    figure = Figure(figsize=(style.WIDTH, 0.6 + 2.1 * len(runs)), layout="constrained")
    style.note(figure, note)
    panels = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axes, (name, layers) in zip(panels, runs.items(), strict=True):
        _stack(axes, layers)
        axes.set_title(name)
    panels[-1].set_xlabel("layer, from the image to the classifier")
    figure.legend(
        handles=[
            Patch(facecolor=style.KEPT, label="kept"),
            Patch(facecolor=style.PRUNED, hatch="///", edgecolor="white", label="pruned"),
        ],
        loc="outside upper right",
        ncols=2,
    )
    return figure


def _stack(axes: Axes, layers: Layers) -> None:
    places = range(len(layers))
    kept = [count for count, _ in layers.values()]
    pruned = [units - count for count, units in layers.values()]
    axes.bar(places, kept, color=style.KEPT, label="kept")
    axes.bar(
        places, pruned, bottom=kept, color=style.PRUNED, hatch="///", edgecolor="white",
        linewidth=0, label="pruned",
    )  # fmt: skip
    if len(layers) <= 24:
        for place, (count, units) in enumerate(layers.values()):
            share = f"{count / units:.0%}" if units else ""
            axes.annotate(
                share, (place, units), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
    axes.set_xticks(places, layers, rotation=0 if len(layers) < 8 else 90, fontsize=8)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_ylabel("units, or weights")
    axes.margins(y=0.15)
    style.grid(axes, "y")


@style.styled
def scores_by_layer(
    scores: Mapping[str, NDArray[np.floating]], kept: Mapping[str, NDArray[np.bool_]]
) -> Figure:
    """Draw each layer's distribution of scores as a ridge, kept and pruned units stacked.

    A black tick stands at the lowest score that was kept. The horizontal axis is logarithmic on
    both sides of zero and linear in between.

    Args:
        scores: one finite score a unit by layer, in the model's order.
        kept: True where the unit stayed, of the same layers and lengths.
    """
    figure = Figure(figsize=(style.WIDTH, 1.2 + 0.38 * len(scores)), layout="constrained")
    axes = figure.subplots()
    threshold = _linear_below(np.concatenate(list(scores.values())))
    transform = SymmetricalLogTransform(10, threshold, 1)
    edges = _edges(np.concatenate(list(scores.values())), transform)
    for row, (name, values) in enumerate(scores.items()):
        floor = float(len(scores) - 1 - row)
        stays = kept[name].astype(bool)
        lower, _ = np.histogram(values[stays], edges)
        upper, _ = np.histogram(values[~stays], edges)
        scale = 0.86 / max(int((lower + upper).max()), 1)
        axes.stairs(lower * scale + floor, edges, baseline=floor, fill=True, color=style.KEPT)
        axes.stairs(
            (lower + upper) * scale + floor, edges, baseline=lower * scale + floor, fill=True,
            facecolor=style.PRUNED, edgecolor="white", linewidth=0, hatch="////",
        )  # fmt: skip
        if stays.any():
            lowest = float(values[stays].min())
            axes.plot([lowest, lowest], [floor, floor + 0.86], color=style.INK, linewidth=1.4)
        axes.axhline(floor, color=style.FAINT, linewidth=0.5)
    axes.set_xscale("symlog", linthresh=threshold)
    axes.set_xticks(_ticks(edges[0], edges[-1], threshold))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(-0.1, len(scores))
    axes.set_yticks([len(scores) - 1 - row + 0.4 for row in range(len(scores))], scores)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("score of a unit")
    style.grid(axes, "x")
    figure.legend(
        handles=[
            Patch(facecolor=style.KEPT, label="kept"),
            Patch(facecolor=style.PRUNED, hatch="///", edgecolor="white", label="pruned"),
        ],
        loc="outside upper right",
        ncols=2,
    )
    return figure


def _linear_below(values: NDArray[np.floating]) -> float:
    """Return where the axis turns linear: below nearly all scores that are not zero."""
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return 1.0
    # Four decades at most, so that a few tiny scores don't press all others to the edge.
    return float(max(np.quantile(sizes, 0.02), sizes.max() * 1e-4))


def _edges(values: NDArray[np.floating], transform: SymmetricalLogTransform) -> NDArray[np.float64]:
    """Return edges of bins that look equally wide."""
    low, high = transform.transform([float(values.min()), float(values.max())])
    room = max(high - low, 1e-9) * 0.02
    edges = np.linspace(low - room, high + room, BINS + 1)
    return np.asarray(transform.inverted().transform(edges), dtype=np.float64)


def _ticks(low: float, high: float, threshold: float) -> list[float]:
    """Return zero and powers of ten of both signs; twos and fives too where there is room."""
    sizes = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(threshold)), math.ceil(math.log10(high)) + 1)
        for digit in ((1, 2, 5) if high < 100 * threshold else (1,))
    ]
    found = [0.0, *sizes, *(-size for size in sizes)]
    return sorted(tick for tick in found if low <= tick <= high and not 0 < abs(tick) < threshold)
