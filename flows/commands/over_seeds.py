"""What came of a sweep, over seeds: two tables for a terminal, the same rows for programs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.sweeps.grid import Grid

Row = dict[str, Any]


def there(grid: "Grid", root: Path) -> list[str]:
    """Name the grid's runs that have a finished round, and say which are missing.

    Raises:
        RunError: none has.
    """
    from fedx_core.base.errors import RunError

    found = [c.run for c in grid.cells if (root / c.run / "results" / "rounds.json").exists()]
    if not found:
        raise RunError(
            f"no run of sweep {grid.name!r} has a finished round in {root}; start it with "
            "`fedx sweep`, or look elsewhere with --run-root"
        )
    if missing := [cell.run for cell in grid.cells if cell.run not in found]:
        print(f"warning: {', '.join(missing)}: no finished round yet", file=sys.stderr)
    return found


def rows(grid: "Grid", runs: Sequence[Row]) -> dict[str, list[Row]]:
    """Average the runs of each cell, and take differences to the baseline.

    Args:
        grid: of the sweep.
        runs: rows of :func:`flows.comparing.compare.rows`.
    """
    from flows.sweeps import paired

    by_run = {run["run"]: run for run in runs}
    return {
        "cells": paired.over_seeds(grid, by_run),
        "differences": paired.differences(grid, by_run),
    }


def show(found: dict[str, list[Row]], metric: str, width: int) -> None:
    """Print both tables.

    Args:
        found: of :func:`rows`.
        metric: that scores are of.
        width: of the terminal, in characters.
    """
    from rich.console import Console

    from fedx_core.learning.evaluation import LOWER_IS_BETTER
    from flows.base import tables
    from flows.base.tables import Column

    share = metric not in LOWER_IS_BETTER
    console = Console(highlight=False, width=width)
    console.print(f"\nover seeds, mean ± standard deviation ({metric}):")
    averages = [
        {
            "cell": row["cell"],
            "n": f"{row['n']}/{row['seeds']}",
            **{
                name: _spread(row, name, text)
                for name, text in (
                    ("final", _score(share)),
                    ("validation", _score(share)),
                    ("best", _score(share)),
                    ("mib_total", "{:.2f}".format),
                    ("sparsity", _score(True)),
                )
            },
        }
        for row in found["cells"]
    ]
    judged = any(row["validation"] for row in averages)
    columns = [
        Column("cell", "cell"), Column("n", "runs"), Column("final", "final"),
        *([Column("validation", "validation")] if judged else []),
        Column("best", "best"), Column("mib_total", "MiB total"), Column("sparsity", "sparsity"),
    ]  # fmt: skip
    for part in tables.fitting(columns, averages, width):
        console.print(tables.drawn(part, averages))
    if not found["differences"]:
        return
    unit = "points" if share else metric
    console.print(f"\nfinal score less the baseline's of the same seed, in {unit}:")
    scale = 100 if share else 1
    columns = [
        Column("cell", "cell"),
        Column("baseline", "baseline"),
        Column("n", "pairs", "{:d}".format),
        *(
            Column(name, title, lambda value: f"{scale * value:+.2f}")
            for name, title in (("mean", "mean"), ("low", "95 % from"), ("high", "to"))
        ),
    ]
    for part in tables.fitting(columns, found["differences"], width):
        console.print(tables.drawn(part, found["differences"]))


def _score(share: bool) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:.1f}") if share else "{:.3f}".format


def _spread(row: Row, name: str, text: Callable[[float], str]) -> str | None:
    mean, deviation = row[name], row[f"{name}_sd"]
    if mean is None:
        return None
    return text(mean) if deviation is None else f"{text(mean)} ± {text(deviation)}"
