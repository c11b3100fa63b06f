"""Accuracy per round, and against what was transmitted."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedx_core.wire.messages import RoundReport
from flows.comparing.compare import metric_of
from flows.figures import style

MIB = 2**20
LABELS = {"overall_accuracy": "overall accuracy", "micro_map": "micro mAP", "mean_iou": "mean IoU"}

Runs = Mapping[str, Sequence[RoundReport]]
"""Reports of all rounds by the name to show; at least one run, and one round in each."""


@style.styled
def accuracy(runs: Runs) -> Figure:
    """Draw accuracy per round and accuracy against what was transmitted, side by side.

    A pruning event shows as a fall from the score before it to the score right after it. A run
    without traffic (a bound) is a level line in the right panel.

    Args:
        runs: see :data:`Runs`.

    Returns:
        A figure of two panels with a shared vertical axis, 10 by 4 inches.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _by_round(left, runs)
    _by_bytes(right, runs)
    right.set_ylabel("")
    left.legend(fontsize="small")
    return figure


@style.styled
def accuracy_by_round(runs: Runs) -> Figure:
    """Draw accuracy per round; a triangle marks the score right after a pruning event."""
    figure, axes = _one_panel()
    _by_round(axes, runs)
    _legend(axes, len(runs))
    return figure


@style.styled
def accuracy_by_bytes(runs: Runs) -> Figure:
    """Draw accuracy against MiB on the wire; a run without traffic is a level, dotted line."""
    figure, axes = _one_panel()
    _by_bytes(axes, runs)
    _legend(axes, len(runs))
    return figure


def _by_round(axes: Axes, runs: Runs) -> None:
    colours = style.run_colours(runs)
    for index, (name, reports) in enumerate(runs.items()):
        metric, line = metric_of(reports), style.dashes(index)
        rounds, scores = _steps(reports, metric)
        axes.plot(
            rounds, scores, color=colours[name], linestyle=line, marker=_dot(scores), label=name
        )
        for report in reports:
            if report.pruned:
                axes.plot(report.round_index, _score(report, metric), "v", color=colours[name])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name(axes, "round", runs)


def _by_bytes(axes: Axes, runs: Runs) -> None:
    colours = style.run_colours(runs)
    for index, (name, reports) in enumerate(runs.items()):
        metric, line = metric_of(reports), style.dashes(index)
        rounds, scores = _steps(reports, metric)
        sent = list(accumulate(report.wire_bytes / MIB for report in reports))
        if sent[-1] > 0:
            costs = dict(zip((report.round_index for report in reports), sent, strict=True))
            reached = [costs[r] for r in rounds]
            axes.plot(
                reached, scores, color=colours[name], linestyle=line, marker=_dot(scores),
                label=name,
            )  # fmt: skip
        else:
            axes.axhline(scores[-1], color=colours[name], linestyle=":", label=name)
    _name(axes, "MiB on the wire, both directions, all clients", runs)


def _steps(reports: Sequence[RoundReport], metric: str) -> tuple[list[int], list[float]]:
    rounds: list[int] = []
    scores: list[float] = []
    for report in reports:
        if metric in report.metrics_before_pruning:
            rounds.append(report.round_index)
            scores.append(report.metrics_before_pruning[metric])
        rounds.append(report.round_index)
        scores.append(_score(report, metric))
    return rounds, scores


def _score(report: RoundReport, metric: str) -> float:
    """Return a score; NaN, which leaves a gap, where it was left out."""
    return report.metrics.get(metric, math.nan)


def _dot(scores: Sequence[float]) -> str:
    """Mark a run of one round, since no line can show it."""
    return "o" if len(scores) == 1 else ""


def _one_panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(style.WIDTH, 4), layout="constrained")
    return figure, figure.subplots()


def _legend(axes: Axes, count: int) -> None:
    if count > 5:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    else:
        axes.legend(fontsize="small")


def _name(axes: Axes, horizontal: str, runs: Runs) -> None:
    metrics = dict.fromkeys(metric_of(reports) for reports in runs.values())
    axes.set_xlabel(horizontal)
    axes.set_ylabel(" or ".join(LABELS.get(metric, metric) for metric in metrics))
    style.grid(axes)
