"""Tables of runs in a terminal: columns that do not fit go into another table below."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

GAP = 2
NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        key: of the rows.
        title: above it.
        text: turns a value that is not None into what is shown.
        better: which values are marked as the best; None marks none.
    """

    key: str
    title: str
    text: Callable[[Any], str] = str
    better: Literal["more", "less"] | None = None


def cells(column: Column, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write a column's cells, the best with a star; none where all are alike.

    A run that sends nothing is no rival in a column of bytes: 0 is never the least.
    """
    values = [row.get(column.key) for row in rows]
    rivals = {v for v in values if v is not None and not (column.better == "less" and v == 0)}
    pick = {"more": max, "less": min}.get(column.better or "")
    best = pick(rivals) if pick and len(rivals) > 1 else None
    texts = [NOTHING if value is None else column.text(value) for value in values]
    if best is None:
        return texts
    return [f"{t} *" if v == best else f"{t}  " for t, v in zip(texts, values, strict=True)]


def fitting(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], width: int
) -> list[list[Column]]:
    """Part columns into tables of at most ``width`` characters, each with the first column.

    Args:
        columns: the first one names the row.
        rows: at least one.
        width: of the terminal.
    """
    first, *others = columns
    tables, used = [[first]], (start := _width(first, rows))
    for column in others:
        needed = GAP + _width(column, rows)
        if used + needed > width and len(tables[-1]) > 1:
            tables.append([first])
            used = start
        tables[-1].append(column)
        used += needed
    return tables


def drawn(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> "Table":
    """Draw one table; columns of numbers stand right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if column.text is str else "right"
        table.add_column(column.title, justify=justify, no_wrap=number > 0, overflow="fold")
    shown = [cells(column, rows) for column in columns]
    for line in zip(*shown, strict=True):
        table.add_row(*(f"[bold green]{c}[/]" if c.endswith("*") else c for c in line))
    return table


def _width(column: Column, rows: Sequence[Mapping[str, Any]]) -> int:
    return max(len(column.title), *map(len, cells(column, rows)))
