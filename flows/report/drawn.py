"""Figures and a table of runs as points, in a folder: what ``compare`` and ``reproduce`` write."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flows.comparing import points
from flows.comparing.points import Point
from flows.report.parts import Column, Table
from flows.runs.record import Record
from flows.runs.run_folder import write

if TYPE_CHECKING:
    from flows.figures.style import Figure

Printed = Mapping[str, Mapping[float, float]]
"""Scores by series and rate."""

SHARE = ".1%"


def write_all(
    records: Sequence[Record],
    metric: str | None,
    folder: Path,
    stem: str = "score",
    note: str = "",
    printed: Printed = MappingProxyType({}),
) -> list[str]:
    """Write scores by rate, by parameters alive and by MiB, and the points as CSV and LaTeX.

    Args:
        records: finished runs, at least one with the metric.
        metric: of the test set; None takes the paper's for each data set's kind of labels.
        folder: made where it is missing.
        stem: what the files' names begin with.
        note: above each figure.
        printed: scores of others by series and rate, shown beside ours.

    Returns:
        Names of the files. Data sets have figures of their own; a figure that no point is in is
        left out.

    Raises:
        StoreError: the folder can't be written.
    """
    from flows.figures import files, tradeoffs

    found = points.points(records, metric)
    draw: Mapping[str, Callable[[Sequence[Point]], Figure]] = {
        "by-rate": lambda own: tradeoffs.against_rate(own, own[0].metric, note, printed),
        "by-alive": lambda own: tradeoffs.against_alive(own, own[0].metric, note),
        "by-mib": lambda own: tradeoffs.against_bytes(own, own[0].metric, note),
    }
    across: Mapping[str, Callable[[Point], float | None]] = {
        "by-rate": lambda p: p.rate,
        "by-alive": lambda p: p.alive,
        "by-mib": lambda p: p.mib or None,
    }
    datasets = dict.fromkeys(point.dataset for point in found)
    names = []
    for dataset in datasets:
        own = [point for point in found if point.dataset == dataset]
        for kind, figure in draw.items():
            if any(across[kind](point) is not None for point in own):
                said = "-".join([stem, kind, *([dataset] if len(datasets) > 1 else [])])
                names += files.save(folder, said, figure(own))
    return [*names, *save_table(table(found, stem, printed), folder)]


def save_table(table: Table, folder: Path) -> list[str]:
    """Write a table as CSV and LaTeX, and name the files."""
    contents = {f"{table.name}.csv": table.as_csv(), f"{table.name}.tex": table.as_latex()}
    for name, text in contents.items():
        write(folder / name, text.encode())
    return list(contents)


def table(found: Sequence[Point], name: str, printed: Printed = MappingProxyType({})) -> Table:
    """Put points into a table, a line each; with a column of others' scores where there are any."""
    share = ".3f" if any(point.metric == "loss" for point in found) else SHARE
    return Table(
        name=name,
        title="Test scores after the last round, means over seeds with their 95 % intervals",
        columns=[
            Column("data set"), Column("model"), Column("series"), Column("q", "g"),
            Column("parameters alive", ",.0f"), Column("MiB", ",.2f"), Column("metric"),
            Column("score", share),
            Column("from", share), Column("to", share),
            *([Column("paper", share)] if printed else []), Column("seeds", "d"), Column("runs"),
        ],
        rows=[
            [p.dataset, p.model, p.series, p.rate, p.alive, p.mib, p.metric, p.score, p.low, p.high,
             *([printed.get(p.series, {}).get(p.rate or 0.0)] if printed else []),
             len(p.runs), " ".join(p.runs)]
            for p in found
        ],
    )  # fmt: skip
