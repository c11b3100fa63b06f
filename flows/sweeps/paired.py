"""A sweep's scores over seeds: means, spreads, and differences in pairs.

Runs of one seed share first weights, data and draws, so a difference is taken seed by seed and
only then averaged; what the seed does to both drops out. The interval is Student's, at 95 %:

    mean(d) ± t(0.975, n - 1) · sd(d) / √n

It takes differences of seeds as independent and roughly normal, which few seeds can't show.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from flows.sweeps.grid import Cell, Grid, partner

Row = dict[str, Any]

AVERAGED = ("final", "validation", "best", "mib_total", "sparsity")
# Quantiles of Student's t at 0.975 by degrees of freedom: W. S. Gosset's table as in any textbook.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def over_seeds(grid: Grid, rows: Mapping[str, Row]) -> list[Row]:
    """Average each label's runs.

    Args:
        grid: the sweep.
        rows: by run, as :func:`flows.comparing.compare.rows` makes them; runs may be missing.

    Returns:
        A row per label: ``cell``, ``n`` (runs there), ``seeds`` (runs asked for), and for each
        number its mean and, as ``<number>_sd``, the sample's standard deviation; None where too
        few runs have it.
    """
    found: list[Row] = []
    for label, cells in _by_label(grid).items():
        there = [rows[cell.run] for cell in cells if cell.run in rows]
        row: Row = {"cell": label, "n": len(there), "seeds": len(cells)}
        for name in AVERAGED:
            values = [value for run in there if (value := run[name]) is not None]
            row[name] = statistics.fmean(values) if values else None
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        found.append(row)
    return found


def differences(grid: Grid, rows: Mapping[str, Row], number: str = "final") -> list[Row]:
    """Take each label's runs against the baseline's of the same seed.

    Args:
        grid: the sweep.
        rows: by run; pairs of which one is missing are left out.
        number: that is compared.

    Returns:
        A row a label that has pairs: ``cell``, ``baseline`` (its label), ``n`` pairs, ``mean`` of
        the differences, ``low`` and ``high`` of the interval, None with one pair only.
    """
    found: list[Row] = []
    for label, cells in _by_label(grid).items():
        pairs = [(cell, other) for cell in cells if (other := partner(grid, cell)) is not None]
        values = [
            rows[cell.run][number] - rows[other.run][number]
            for cell, other in pairs
            if cell.run in rows and other.run in rows
            and None not in (rows[cell.run][number], rows[other.run][number])
        ]  # fmt: skip
        if values:
            mean, half = statistics.fmean(values), half_width(values)
            found.append(
                {
                    "cell": label,
                    "baseline": pairs[0][1].label,
                    "n": len(values),
                    "mean": mean,
                    "low": None if half is None else mean - half,
                    "high": None if half is None else mean + half,
                }
            )
    return found


def half_width(values: Sequence[float]) -> float | None:
    """Return half the width of the mean's 95 % interval; None for one value."""
    n = len(values)
    if n < 2:
        return None
    # Beyond the table its last quantile: intervals come out a little too wide, by up to 4 %.
    quantile = T_975[min(n - 1, len(T_975)) - 1]
    return quantile * statistics.stdev(values) / math.sqrt(n)


def _by_label(grid: Grid) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in grid.cells:
        found.setdefault(cell.label, []).append(cell)
    return found
