"""Labels from tables: CSV files with a head, and the lists of names that data sets come with."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import numpy as np

from fedx_core.base.errors import DataError, SourceMissingError
from fedx_core.data import base
from fedx_core.data._labelled import Labelled, named, numbered, some, split_of, tidy
from fedx_core.data._named import Images

FILE, LABEL, SPLIT, GROUP = "file", "label", "split", "group"
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar", " ": "a blank"}
_MARKS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called.

    Args:
        file: names of the images.
        label: one label per image; without it, all columns that are left are 0/1 labels.
        split: of the image.
        group: of the image.
        separator: between the labels in one field; empty where it holds one.
    """

    file: str = FILE
    label: str = LABEL
    split: str = SPLIT
    group: str = GROUP
    separator: str = ""


@dataclass(frozen=True)
class Listing:
    """A table's text.

    Args:
        text: all of it.
        shown: where it comes from, for errors.
        split: of all its images; empty where it says, or nobody does.
    """

    text: str
    shown: str
    split: str = ""


@dataclass(frozen=True)
class _Row:
    where: str
    file: str
    labels: tuple[str, ...]
    split: str
    group: str


def decode_text(payload: bytes, shown: str) -> str:
    """Decode a table's bytes: UTF-8, or UTF-16 with its mark.

    Raises:
        DataError: they are neither.
    """
    sixteen = payload[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        # "-sig" drops the mark that spreadsheets put first.
        return payload.decode("utf-16" if sixteen else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{shown} is no CSV file in UTF-8 ({error}); save it as such") from error


def by_table(listings: Sequence[Listing], columns: Columns, images: Images) -> Labelled:
    """Take names, labels, splits and groups from tables that belong together.

    Args:
        listings: at least one.
        columns: what they are called.
        images: of the source.

    Raises:
        SourceMissingError: an image that is named is not there.
        DataError: a table can't be used; says in which line.
    """
    tables = [_Table(listing, columns, images) for listing in listings]
    first = tables[0]
    for table in tables[1:]:
        if table.marked != first.marked:
            raise DataError(
                f"{table.shown} has other columns of labels than {first.shown}; name the same in "
                "both"
            )
    rows = [row for table in tables for row in table.rows()]
    names = _names(rows, images, first.shown)
    notes = {}
    if rest := len(set(images.all) - set(names)):
        notes["not listed"] = f"images {rest}"
    if unused := list(dict.fromkeys(name for table in tables for name in table.unused)):
        notes["not used"] = f"columns {some(unused)}"
    if joined := _joined(tables):
        notes["joined"] = joined
    groups = base.no_groups(len(rows))
    group_names: tuple[str, ...] = ()
    if any(row.group for row in rows):
        positions, group_names = numbered([row.group for row in rows])
        groups = positions.astype(np.int16)
    labels: np.ndarray[tuple[int, ...], np.dtype[np.integer]]
    if columns.separator or first.marked:
        known = first.marked or numbered([n for row in rows for n in row.labels])[1]
        place = {name: number for number, name in enumerate(known)}
        labels = np.zeros((len(rows), len(known)), dtype=np.uint8)
        for mark, row in zip(labels, rows, strict=True):
            mark[[place[name] for name in row.labels]] = 1
        class_names = tuple(known)
    else:
        given = [
            row.labels[0] if row.labels else _folder(name, row.where)
            for name, row in zip(names, rows, strict=True)
        ]
        labels, class_names = numbered(given)
    splits = [row.split for row in rows] if any(row.split for row in rows) else []
    said_by = ""
    if splits:
        said_by = (
            f"lists {', '.join(PurePosixPath(table.shown).name for table in tables)}"
            if len(tables) > 1
            else f"column {first.columns.get(SPLIT, SPLIT)} of {PurePosixPath(first.shown).name}"
        )
    return Labelled(names, labels, class_names, groups, group_names, splits, said_by, notes)


class _Table:
    """One table: which of its columns is which, and its rows."""

    def __init__(self, listing: Listing, columns: Columns, images: Images) -> None:
        self.shown, self._split, self._wanted = listing.shown, listing.split, columns
        self._separator = columns.separator
        self._lines, self._delimiter = _lines(listing, columns, images)
        self._head: list[str] = []
        self.spelt: dict[str, dict[str, str]] = {}
        head = [tidy(cell) for cell in self._first]
        if tidy(columns.file).lower() in [name.lower() for name in head] or (
            head and not any(images.looks_named(cell) for cell in self._first)
        ):
            self._head, self._lines = head, self._lines[1:]
            self.columns = self._by_head(images)
        else:
            self.columns = self._by_content(images)
        self._check_widths()
        taken = self.columns.values()
        rest = [name for name in self._names if name not in taken]
        if LABEL not in self.columns and len(rest) == 1 and not self._marks_in_head(rest[0]):
            self.columns[LABEL] = rest.pop()
        self.marked: tuple[str, ...] = ()
        self.unused: list[str] = []
        if LABEL in self.columns:
            self.unused = rest
        elif rest:
            if not self._head:
                raise self._unusable(f"{len(rest)} columns of labels without a name")
            self.marked = tuple(named(name, "a column's name", self._at(1)) for name in rest)

    def rows(self) -> Iterator[_Row]:
        """Read all rows.

        Raises:
            DataError: a field can't be used.
        """
        where_is = {name: number for number, name in enumerate(self._names)}
        place = {what: where_is[name] for what, name in self.columns.items()}
        marks = [(name, where_is[name]) for name in self.marked]
        for line, cells in self._lines:
            where = self._at(line)
            file = cells[place[FILE]].strip()
            if not file:
                raise DataError(f"{where}: {self.columns[FILE]} is empty; write an image's name")
            labels: tuple[str, ...] = ()
            if LABEL in place:
                labels = self._labels(cells[place[LABEL]], where)
            elif marks:
                labels = tuple(n for n, at in marks if _mark(cells[at], n, where))
            split = self._split
            if SPLIT in place:
                split = split_of(cells[place[SPLIT]]) or ""
                if not split:
                    raise DataError(
                        f"{where}: split {cells[place[SPLIT]]!r}; wanted one of "
                        f"{', '.join(base.SPLITS)} (or val)"
                    )
            group = self._named(cells[place[GROUP]], GROUP, where) if GROUP in place else ""
            yield _Row(where, file, labels, split, group)

    def _labels(self, cell: str, where: str) -> tuple[str, ...]:
        if not self._separator:
            return (self._named(cell, LABEL, where),)
        # An image may bear none; between two separators there must be a name.
        parts = cell.split(self._separator) if cell.strip() else []
        if not self._separator.strip():
            parts = cell.split()
        return tuple(dict.fromkeys(self._named(part, LABEL, where) for part in parts))

    def _named(self, text: str, what: str, where: str) -> str:
        """Tidy a name, and remember how it was spelt and where first."""
        name = named(text, what, where)
        self.spelt.setdefault(name, {}).setdefault(text, where)
        return name

    @property
    def _first(self) -> list[str]:
        return self._lines[0][1] if self._lines else []

    @property
    def _names(self) -> list[str]:
        return self._head or [f"column {n + 1}" for n in range(len(self._first))]

    def _by_head(self, images: Images) -> dict[str, str]:
        """Find the columns by their names."""
        if len(set(self._head)) < len(self._head) or not self._lines:
            raise self._unusable()
        small = {name.lower(): name for name in reversed(self._head)}
        found = {}
        usual = Columns()
        for what in (FILE, LABEL, SPLIT, GROUP):
            name = getattr(self._wanted, what)
            if (there := small.get(tidy(name).lower())) is not None:
                found[what] = there
            elif name != getattr(usual, what):
                raise self._unusable(wanted=f"a column {name!r}, as {what}_column says")
        if FILE not in found:
            cells = zip(self._head, self._first, strict=False)
            named_by = (n for n, c in cells if n not in found.values() and images.looks_named(c))
            if (name := next(named_by, None)) is None:
                raise self._unusable()
            found[FILE] = name
        return found

    def _by_content(self, images: Images) -> dict[str, str]:
        """Find the columns of a list without a head by what is in them."""
        if not self._lines:
            raise self._unusable()
        self._check_widths()
        cells = zip(self._names, self._first, strict=True)
        found = {FILE: next(name for name, cell in cells if images.looks_named(cell))}
        for number, name in enumerate(self._names):
            if name != found[FILE] and all(split_of(cells[number]) for _, cells in self._lines):
                found[SPLIT] = name
                break
        return found

    def _marks_in_head(self, name: str) -> bool:
        """Whether a column is a label that has 0 or 1; without a head nobody said which."""
        at = self._names.index(name)
        marks = {*_MARKS, ""}
        return bool(self._head) and all(c[at].strip().lower() in marks for _, c in self._lines)

    def _check_widths(self) -> None:
        width = len(self._names)
        for line, cells in self._lines:
            if len(cells) != width:
                raise DataError(
                    f"{self._at(line)}: wanted {width} fields, got {len(cells)}; they are parted "
                    f"by {_DELIMITERS[self._delimiter]}"
                )

    def _at(self, line: int) -> str:
        return f"{self.shown}, line {line}"

    def _unusable(self, but: str = "", wanted: str = "") -> DataError:
        shown = ", ".join(self._head or self._first) or "none"
        wanted = wanted or (
            f"a row per image, a column {FILE!r}, and a column {LABEL!r} or one 0/1 column per "
            "label (other names by file_column, label_column)"
        )
        return DataError(
            f"{self.shown} has {len(self._lines)} rows and the columns {shown}"
            + (f" ({but})" if but else "")
            + f"; wanted {wanted}. Fields are parted by {_DELIMITERS[self._delimiter]}"
        )


def _lines(
    listing: Listing, columns: Columns, images: Images
) -> tuple[list[tuple[int, list[str]]], str]:
    """Part a table into lines of fields, each with its number; blank lines are left out."""
    first = next((line for line in listing.text.splitlines() if line.strip()), "")
    if images.is_named(first.strip()) and not re.search(r"[,;\t|]", first):
        # One name per line, which may hold blanks.
        lines = enumerate(listing.text.splitlines(), start=1)
        return [(number, [line]) for number, line in lines if line.strip()], " "
    delimiter = _delimiter(first)
    if delimiter == " ":
        lines = enumerate(listing.text.splitlines(), start=1)
        return [(number, line.split()) for number, line in lines if line.strip()], " "
    reader = csv.reader(
        io.StringIO(listing.text, newline=""), delimiter=delimiter, strict=True,
        skipinitialspace=True,
    )  # fmt: skip
    try:
        return [(reader.line_num, cells) for cells in reader if cells], delimiter
    except csv.Error as error:
        raise DataError(
            f"{listing.shown}, line {reader.line_num}, is no CSV file ({error}); fields are "
            f"parted by {_DELIMITERS[delimiter]}, those that hold one or a quote stand in quotes"
        ) from error


def _delimiter(line: str) -> str:
    """Return what parts a line into the most fields; quoted ones are left whole."""
    bare = re.sub(r'"[^"]*"', "", line)
    found = max(islice(_DELIMITERS, 4), key=bare.count)
    if bare.count(found):
        return found
    return " " if len(line.split()) > 1 and '"' not in line else ","


def _mark(cell: str, name: str, where: str) -> int:
    mark = _MARKS.get(cell.strip().lower())
    if mark is None:
        raise DataError(f"{where}: {name} is {cell!r}, wanted 0 or 1; or set label_column")
    return mark


def _names(rows: Sequence[_Row], images: Images, shown: str) -> list[str]:
    """Find the images of all rows; no two of one file."""
    found = [(row, images.find(row.file, row.where)) for row in rows]
    if absent := [row for row, name in found if name is None]:
        raise SourceMissingError(
            f"{len(absent)} of {len(rows)} images that {shown} names are not in "
            f"{images.place}, {absent[0].file} first ({absent[0].where}); names are paths in the "
            "source"
        )
    names = [name for _, name in found if name is not None]
    seen: dict[object, _Row] = {}
    for row, name in zip(rows, names, strict=True):
        first = seen.setdefault(images.identity(name), row)
        if first is not row:
            as_well = f", once as {row.file}" if row.file != first.file else ""
            raise DataError(
                f"{row.where}: names {first.file} twice{as_well}; the first is {first.where}; "
                "wanted one line per image"
            )
    return names


def _joined(tables: Sequence[_Table]) -> str:
    """Say which spellings became one name, and where they stand."""
    spelt: dict[str, dict[str, str]] = {}
    for table in tables:
        for name, spellings in table.spelt.items():
            spelt[name] = spellings | spelt.get(name, {})
    return "; ".join(
        f"{' and '.join(f'{text!a} ({where})' for text, where in spellings.items())} as {name}"
        for name, spellings in spelt.items()
        if len(spellings) > 1
    )


def _folder(name: str, where: str) -> str:
    parent = PurePosixPath(name).parent.name
    if not parent:
        raise DataError(
            f"{where}: {name} has no label and lies in no class folder; add a column {LABEL!r}"
        )
    return tidy(parent)
