"""Round reports in, figure out: one pure function a figure. Only this file imports matplotlib."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedx_core.messages import RoundReport

MIB = 2**20
LABELS = {"overall_accuracy": "overall accuracy", "micro_map": "micro mAP"}


def accuracy(runs: Mapping[str, Sequence[RoundReport]]) -> Figure:
    """Draw accuracy per round and accuracy against what was transmitted, run by run.

    A pruning event shows as a fall from the score before it to the score right after it. A run
    without traffic (a bound) is a level line in the right panel.

    Args:
        runs: reports of all rounds by the name to show; at least one run with one round.

    Returns:
        A figure of two panels with a shared vertical axis, 10 by 4 inches.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    metric = next(m for m in LABELS if m in next(iter(runs.values()))[-1].metrics)
    for number, (name, reports) in enumerate(runs.items()):
        colour = f"C{number}"
        rounds, scores = _steps(reports, metric)
        sent = list(accumulate(report.wire_bytes / MIB for report in reports))
        left.plot(rounds, scores, color=colour, label=name)
        if sent[-1] > 0:
            costs = dict(zip((report.round_index for report in reports), sent, strict=True))
            right.plot([costs[r] for r in rounds], scores, color=colour)
        else:
            right.axhline(scores[-1], color=colour, linestyle=":")
        for report in reports:
            if report.pruned:
                left.plot(report.round_index, report.metrics[metric], "v", color=colour)
    _name(left, "round", LABELS[metric])
    _name(right, "MiB on the wire, both directions, all clients", "")
    left.legend(fontsize="small")
    return figure


def _steps(reports: Sequence[RoundReport], metric: str) -> tuple[list[int], list[float]]:
    rounds: list[int] = []
    scores: list[float] = []
    for report in reports:
        if metric in report.metrics_before_pruning:
            rounds.append(report.round_index)
            scores.append(report.metrics_before_pruning[metric])
        rounds.append(report.round_index)
        scores.append(report.metrics[metric])
    return rounds, scores


def _name(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.grid(alpha=0.3)
