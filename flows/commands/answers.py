"""Answers in files, where somebody asked for one."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedx_core.errors import StoreError


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV, with the columns of the first; None leaves a field empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
