"""Scores of many runs: against what was removed, what was left, and what it cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from flows.comparing.points import UNPRUNED, Point, front
from flows.figures import style
from flows.figures.curves import LABELS

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDE_RANGE = 12
"""Largest over smallest value from which an axis of amounts is logarithmic."""

Across = Callable[[Point], float | None]


@style.styled
def against_rate(
    points: Sequence[Point],
    metric: str,
    note: str = "",
    printed: Mapping[str, Mapping[float, float]] = MappingProxyType({}),
) -> Figure:
    """Draw the score against the share that was removed, a line a series.

    FedAvg removes nothing: it is the point at 0 of every pruning method of its model.

    Args:
        points: of one data set, at least one.
        metric: that scores are of.
        note: above the figure, such as what it lacks.
        printed: the paper's scores by series and rate, hollow; left out where models are several.
    """
    figure = _drawn(points, metric, lambda point: point.rate, "share removed (q)", note)
    if len({point.model for point in points}) == 1:
        _beside(figure.axes[0], printed, _looks(points))
    return figure


@style.styled
def against_alive(points: Sequence[Point], metric: str, note: str = "") -> Figure:
    """Draw the score against how many parameters of the final model are not zero."""
    return _drawn(points, metric, lambda point: point.alive, "parameters alive", note)


@style.styled
def against_bytes(points: Sequence[Point], metric: str, note: str = "") -> Figure:
    """Draw the score against MiB on the wire; rings mark the points that nothing beats in both.

    Dotted are scores of clients' own models on their own images, which have no part in that.
    """
    figure = _drawn(
        points,
        metric,
        lambda point: point.mib or None,
        "MiB on the wire, both directions, all clients",
        note,
    )
    for axes, inside in zip(figure.axes, _panels(points).values(), strict=True):
        best = front(inside)
        xs, ys = [point.mib for point in best], [point.score for point in best]
        axes.step(xs, ys, where="post", color=style.FAINT, linewidth=1, zorder=1)
        axes.plot(
            xs, ys, "o", markersize=13, markerfacecolor="none", markeredgecolor=style.INK,
            label="Pareto front",
        )  # fmt: skip
        _legend(axes)
    return figure


def _drawn(
    points: Sequence[Point], metric: str, across: Across, horizontal: str, note: str
) -> Figure:
    panels = _panels(points)
    columns = min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    width = style.WIDTH if columns == 1 else 4.2 * columns
    figure = Figure(figsize=(width, 4.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    looks = _looks(points)
    for axes, (title, inside) in zip(grid, panels.items(), strict=False):
        for name, own in _lines(inside, by_model=not title).items():
            _line(axes, own, across, name, *looks[name])
        axes.set_title(title)
        _frame(axes, inside, across, horizontal, metric)
        _legend(axes)
    for axes in grid[len(panels) :]:
        axes.remove()
    style.note(figure, note)
    return figure


def _beside(
    axes: Axes,
    printed: Mapping[str, Mapping[float, float]],
    looks: Mapping[str, tuple[str, str]],
) -> None:
    label = "in the paper's text"
    for series, scores in printed.items():
        if series in looks:
            colour, marker = looks[series]
            axes.plot(
                list(scores), list(scores.values()), marker, markersize=9, markerfacecolor="none",
                markeredgecolor=colour, label=label,
            )  # fmt: skip
            label = "_nolegend_"
    if printed:
        _legend(axes)


def _panels(points: Sequence[Point]) -> Mapping[str, Sequence[Point]]:
    """Part points into panels, one per model where models and methods are several."""
    models = dict.fromkeys(point.model for point in points)
    if len(models) == 1 or not _several_methods(points):
        return {"": points}
    return {model: [p for p in points if p.model == model] for model in models}


def _several_methods(points: Sequence[Point]) -> bool:
    return len({p.series for p in points if p.method != UNPRUNED}) > 1


def _lines(points: Sequence[Point], *, by_model: bool) -> dict[str, list[Point]]:
    """Part points into lines, each begun by FedAvg where it has rates."""
    several = by_model and len({p.model for p in points}) > 1
    unpruned = {p.model: p for p in points if p.method == UNPRUNED}
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.model if several else point.series, []).append(point)
    if several:
        return {name: _in_order(own) for name, own in found.items()}
    begun = {}
    for name, own in found.items():
        base = unpruned.get(own[0].model)
        starts = base is not None and own[0].method != UNPRUNED and bool(own[0].rate)
        begun[name] = _in_order([base, *own] if starts and base else own)
    return begun


def _in_order(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (p.rate is None, p.rate or 0.0))


def _looks(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Give each line its colour and marker, the same in all panels."""
    several = not _several_methods(points) and len({p.model for p in points}) > 1
    names = list(dict.fromkeys(p.model if several else p.series for p in points))
    colours = style.run_colours(names)
    # Markers move on by one each time that the colours repeat.
    turns = ((n + n // len(MARKERS)) % len(MARKERS) for n in range(len(names)))
    looks = {name: (colours[name], MARKERS[n]) for name, n in zip(names, turns, strict=True)}
    return looks | {name: (style.INK, "*") for name in names if name == UNPRUNED}


def _line(
    axes: Axes, points: Sequence[Point], across: Across, name: str, colour: str, marker: str
) -> None:
    there = [(x, point) for point in points if (x := across(point)) is not None]
    if not there:
        return
    xs = [x for x, _ in there]
    alone = name == UNPRUNED  # on top, since lines begin there
    own = there[0][1].personal
    axes.plot(
        xs, [p.score for _, p in there], color=colour, marker=marker,
        label=f"{name}, clients' own" if own else name,
        markersize=11 if alone else 5, zorder=4 if alone else 2,
        linestyle=":" if own else "-", markerfacecolor="none" if own else colour,
    )  # fmt: skip
    bars = [(x, p.score, p.low, p.high) for x, p in there if p.low is not None]
    for x, score, low, high in bars:
        assert low is not None
        assert high is not None
        axes.errorbar(
            x, score, [[score - low], [high - score]], color=colour, capsize=3, linewidth=1
        )


def _frame(
    axes: Axes, points: Sequence[Point], across: Across, horizontal: str, metric: str
) -> None:
    values = [x for point in points if (x := across(point))]
    if horizontal.startswith("share"):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
    elif values and max(values) > WIDE_RANGE * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    if not horizontal.startswith("share"):
        axes.xaxis.set_major_formatter(FuncFormatter(_amount))
    axes.set_xlabel(horizontal)
    axes.set_ylabel(LABELS.get(metric, metric))
    style.grid(axes)


def _amount(value: float, _: int) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _legend(axes: Axes) -> None:
    count = len(axes.get_legend_handles_labels()[1])
    if count > 6:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    elif count:
        axes.legend(fontsize="small")
