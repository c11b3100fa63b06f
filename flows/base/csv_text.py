"""CSV that spreadsheets show and never compute.

A text that begins as a formula does (``=``, ``+``, ``-``, ``@``, a tab or a line's end) gets an
apostrophe before it, which spreadsheets take for "this is text". Names of classes and files come
from others. Numbers stay as they are.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as CSV; None leaves a field empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_safe(cell) for cell in row] for row in rows)
    return text.getvalue()


def _safe(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    # The writer quotes a line feed, and not a carriage return, which would end the row as well.
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")
    if len(cell) < 2 or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
