"""What is known of a folder's images before they are opened, and how their names are read.

One rule for all names that people write, of classes and groups: Unicode's composed form (NFC), no
white space around them, one blank for any within. Twins such as ``forest`` and ``forest `` so
become one. A name that is blank or stands for a missing value (:data:`MISSING`) is refused.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import DataError
from fedx_core.images.label_values import LabelKind

MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""What spreadsheets, pandas and R write for a value that is not there, in small letters."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Labelled:
    """Images by name, with their labels.

    Args:
        names: of the files, relative to the source.
        labels: int64 (n,), uint8 (n, classes), or uint8 (n, height, width) of classes of pixels.
        class_names: in label order.
        groups: int16 (n,) index into ``group_names``.
        group_names: in alphabetical order; empty if nobody said.
        splits: of each image, or empty if nobody said.
        said_by: what gave the splits, such as ``column split``.
        notes: what else there is to say, a sentence a key: what was ignored, joined or empty.
        sizes: height and width of each image's mask as it is stored; empty where there are none.
    """

    names: Sequence[str]
    labels: NDArray[np.integer]
    class_names: tuple[str, ...]
    groups: NDArray[np.int16]
    group_names: tuple[str, ...] = ()
    splits: Sequence[str] = ()
    said_by: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sequence[tuple[int, int]] = ()

    @property
    def label_kind(self) -> LabelKind:
        """One label per image, any number, or one per pixel."""
        kinds: dict[int, LabelKind] = {1: "single", 2: "multi", 3: "pixels"}
        return kinds[self.labels.ndim]


def tidy(text: str) -> str:
    """Bring a name to the one form in which names are compared; see the module."""
    return " ".join(unicodedata.normalize("NFC", text.replace("\u200b", "")).split())


def named(text: str, what: str, where: str) -> str:
    """Tidy a class's or a group's name.

    Args:
        text: as it was written.
        what: it names, such as ``label``.
        where: it stands, such as ``labels.csv, line 3``.

    Raises:
        DataError: it is blank or stands for a missing value.
    """
    name = tidy(text)
    if name.lower() in MISSING:
        shown = "empty" if not name else f"{name!r}, which stands for a missing value"
        raise DataError(f"{where}: {what} is {shown}; write a name, or take the line out")
    return name


def split_of(text: str) -> str | None:
    """Return the split of a common name (``train``, ``val``, ``Test``); None if it is none."""
    return _SPLITS.get(tidy(text).lower())


def numbered(values: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number names in order, whole numbers by value and others by letter; give both."""
    names = sorted(set(values))
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=int)
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[value] for value in values], dtype=np.int64), tuple(names)


def some(names: Sequence[str], most: int = 5) -> str:
    """List names, the first few of many."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
