"""Candidates of an advice: what each would send and score, the chosen one, and the budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from flows.figures import style
from flows.figures.curves import LABELS


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One candidate.

    Args:
        name: beside it.
        mib: of its run, above 0.
        score: expected.
        low: lower end of the interval; None for none.
        high: upper end.
        chosen: it is the one that is advised.
        cut: its run was made shorter to fit.
    """

    name: str
    mib: float
    score: float
    low: float | None
    high: float | None
    chosen: bool = False
    cut: bool = False


@style.styled
def candidates(
    marks: Sequence[Mark], metric: str, budget_mib: float | None, note: str = ""
) -> Figure:
    """Draw scores against MiB on a logarithmic axis.

    Args:
        marks: at least one; hollow are those whose run was cut to fit.
        metric: of the scores.
        budget_mib: a line across; None where the budget is of time.
        note: above the figure.
    """
    figure = Figure(figsize=(style.WIDTH, 4.8), layout="constrained")
    axes = figure.subplots()
    colours = style.run_colours([mark.name for mark in marks])
    for mark in marks:
        colour = colours[mark.name]
        if mark.low is not None and mark.high is not None:
            bars = [[mark.score - mark.low], [mark.high - mark.score]]
            axes.errorbar(mark.mib, mark.score, bars, color=colour, capsize=3, linewidth=1)
        axes.plot(
            mark.mib, mark.score, "o", color=colour, markersize=6, label=mark.name,
            markerfacecolor="none" if mark.cut else colour,
        )  # fmt: skip
        if mark.chosen:
            axes.plot(
                mark.mib, mark.score, "o", markersize=15, markerfacecolor="none",
                markeredgecolor=style.INK, markeredgewidth=1.5, label="chosen",
            )  # fmt: skip
    axes.set_xscale("log")
    if budget_mib is not None:
        axes.axvline(budget_mib, color=style.INK, linestyle="--", linewidth=1, label="budget")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda mib, _: f"{mib:g}"))
    axes.set_xlabel("MiB on the wire, both directions, all clients")
    axes.set_ylabel(f"{LABELS.get(metric, metric)}, tuning images")
    style.grid(axes)
    figure.legend(fontsize="small", loc="outside right upper")
    style.note(figure, note)
    return figure
