"""Answers in files, where somebody asked for one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedx_core.base.errors import StoreError
from flows.base.csv_text import csv_text


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV, with the columns of the first; None leaves a field empty."""
    names = list(rows[0])
    return csv_text([names, *([row.get(name) for name in names] for row in rows)])


def save(path: Path, text: str) -> None:
    """Write a file in UTF-8, and the folders above it.

    Raises:
        StoreError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"can't write {path}: {error.strerror or error}; choose another file"
        ) from error
