"""What a page consists of: sections with figures and tables."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.base.csv_text import csv_text

if TYPE_CHECKING:
    from flows.figures.style import Figure

Cell = str | int | float | None
"""None stands for what is not known or does not apply."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: above it, with the unit.
        style: how its numbers are shown, as in ``format``; files for machines have all digits.
    """

    title: str
    style: str = ""

    def shown(self, cell: Cell) -> str:
        """Write a cell for people."""
        if cell is None:
            return "-"
        return cell if isinstance(cell, str) else format(cell, self.style)


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Args:
        name: of its files.
        title: one line above it.
        columns: in order.
        rows: as many cells as there are columns.
        note: how to read it.
        stays_open: show it whole in a page, however long.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    stays_open: bool = False

    def shown(self) -> list[list[str]]:
        """Write all cells for people."""
        return [
            [column.shown(cell) for column, cell in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """Say which columns hold numbers."""
        return [
            all(not isinstance(row[index], str) for row in self.rows)
            for index in range(len(self.columns))
        ]

    def as_csv(self) -> str:
        """Write for machines: all digits, nothing where nothing is known."""
        return csv_text([[column.title for column in self.columns], *self.rows])

    def as_rows(self) -> list[dict[str, Cell]]:
        """Return a mapping a row, by the columns' titles."""
        titles = [column.title for column in self.columns]
        return [dict(zip(titles, row, strict=True)) for row in self.rows]

    def as_text(self) -> str:
        """Write for a terminal: aligned columns, numbers to the right."""
        lines = [[column.title for column in self.columns], *self.shown()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        signs = [">" if numeric else "<" for numeric in self.numeric()]
        return "\n".join(
            "  ".join(f"{c:{s}{w}}" for c, s, w in zip(line, signs, widths, strict=True)).rstrip()
            for line in lines
        )

    def as_latex(self) -> str:
        """Write as a table for LaTeX with the package booktabs."""
        align = "".join("r" if numeric else "l" for numeric in self.numeric())
        lines = [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{_latex(self.title)}}}",
            f"  \\label{{tab:{self.name}}}",
            f"  \\begin{{tabular}}{{{align}}}",
            "    \\toprule",
            _latex_row([column.title for column in self.columns]),
            "    \\midrule",
            *map(_latex_row, self.shown()),
            "    \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Drawing:
    """A figure with words.

    Args:
        name: of its files; unique in the page.
        figure: drawn.
        alt: what it shows, for those who don't see it.
        reading: one line that says how to read it.
    """

    name: str
    figure: "Figure"
    alt: str
    reading: str


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        key: names its place in the page.
        title: its heading.
        text: what it is about.
        drawings: in order.
        tables: after the drawings.
        missing: what can't be shown and why, a line each.
    """

    key: str
    title: str
    text: str = ""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = field(default=())


def slug(*parts: object) -> str:
    """Join words to a name for files and anchors."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(map(str, parts))).strip("-.")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex_row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(map(_latex, cells))} \\\\"
