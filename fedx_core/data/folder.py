"""Your own images: one folder a class, or a table of labels."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fedx_core.data import base
from fedx_core.data._files import IMAGES, Files, decode, open_files
from fedx_core.data.base import SPLITS, Source, Split, decoded, found
from fedx_core.errors import ConfigError, DataError, SourceMissingError
from fedx_core.examples import Description, Image, LabelKind

FILE, LABEL, SPLIT, GROUP = "file", "label", "split", "group"


@dataclass(frozen=True)
class Table:
    """What is known of the images before they are opened.

    Args:
        names: of the files, relative to the source.
        labels: int64 (n,), or uint8 (n, classes).
        class_names: in label order.
        groups: int16 (n,) index into ``group_names``.
        group_names: in alphabetical order; empty if nobody said.
        splits: of each image, or empty if nobody said.
    """

    names: Sequence[str]
    labels: NDArray[np.integer]
    class_names: tuple[str, ...]
    groups: NDArray[np.int16]
    group_names: tuple[str, ...] = ()
    splits: Sequence[str] = ()

    @property
    def label_kind(self) -> LabelKind:
        """One label an image, or any number."""
        return "single" if self.labels.ndim == 1 else "multi"


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """JPEG, PNG or TIFF images, 8 or 16 bits a pixel, all with the same bands.

    Args:
        source: a folder or a zip. Without ``labels`` it holds one folder a class.
        labels: a CSV file, in the source or elsewhere: a column ``file``, then either a column
            ``label`` or one 0/1 column a label; optionally ``split`` (train, validation, test) and
            ``group`` (such as a country). Splits that it does not give are drawn 60/20/20.
        image_size: side in pixels to bring all images to; 0 wants all square and of one size.
        scale: pixel value that maps to 1.0; 0 takes 255 for 8 bits and 10,000 for 16.
        band_names: in the files' order; empty numbers them.
    """

    source: str
    labels: str = ""
    image_size: int = 0
    scale: float = 0.0
    band_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 0:
            raise ConfigError(f"image_size must be 0 (as it is) or more, got {self.image_size}")
        if self.scale < 0:
            raise ConfigError(f"scale must be 0 (by the pixels' width) or more, got {self.scale}")

    def open(self) -> Source:
        """List the images with their labels, and look at the first.

        Raises:
            SourceMissingError: the folder, the table or an image that it names is not there.
            DataError: the table or the first image can't be used.
        """
        place = found("images", [Path(self.source)], "name the folder or zip that holds them")
        files = open_files(place)
        table = self._table(files, place) if self.labels else _by_folder(files, place)
        if len(table.class_names) < 2:
            raise DataError(
                f"{place} has {len(table.class_names)} class, wanted two or more: one folder a "
                "class, or a labels file"
            )
        first = next(decoded(lambda name: decode(name, files.read(name)), table.names[:1]))
        description = self._description(place, table, first)
        if table.splits:
            every = np.array(table.splits)
            positions = {name: np.flatnonzero(every == name) for name in SPLITS}
            note = f"column {SPLIT} of {Path(self.labels).name}"
        else:
            positions = base.random_splits(table.labels, self.seed)
            note = "drawn 60/20/20, class by class"
        splits = {
            name: Split(
                table.labels[rows],
                table.groups[rows],
                partial(
                    _read,
                    files,
                    [table.names[row] for row in rows.tolist()],
                    description,
                    bool(self.image_size),
                ),
            )
            for name, rows in positions.items()
        }
        return Source(description, splits, {"split": note, "images": len(table.names)})

    def _table(self, files: Files, place: Path) -> Table:
        inside = files.holds(self.labels)
        if inside:
            payload, shown = files.read(self.labels), f"{place}/{self.labels}"
        else:
            path = found("labels", [place / self.labels, Path(self.labels)], "name a CSV file")
            payload, shown = path.read_bytes(), str(path)
        try:
            # "-sig" drops the mark that spreadsheets put first.
            text = io.StringIO(payload.decode("utf-8-sig"), newline="")
            reader = csv.DictReader(text, strict=True)
            rows, columns = list(reader), reader.fieldnames or []
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{shown} is no CSV file in UTF-8 ({error}); save it as such"
            ) from error
        table = _from_rows(rows, columns, shown)
        absent = [name for name in table.names if not files.holds(name)]
        if absent:
            raise SourceMissingError(
                f"{len(absent)} of {len(table.names)} images that {shown} names are not in "
                f"{place}, {absent[0]} first; names are relative to the source"
            )
        return table

    def _description(self, place: Path, table: Table, first: Image) -> Description:
        bands, height, width = first.shape
        if not self.image_size and height != width:
            raise DataError(
                f"{table.names[0]} has {width} x {height} pixels; images must be square, or set "
                "image_size to resize them"
            )
        if self.band_names and len(self.band_names) != bands:
            raise DataError(
                f"{table.names[0]} has {bands} bands, but band_names names {len(self.band_names)}"
            )
        eight_bits = first.dtype == np.uint8
        scale = self.scale or (255.0 if eight_bits else 10_000.0)
        if eight_bits != (scale <= 255):
            raise DataError(
                f"{table.names[0]} has {first.dtype} pixels, which scale {scale:g} does not fit; "
                "set up to 255 for 8 bits and more for 16, or 0"
            )
        return Description(
            name=place.stem,
            bands=tuple(self.band_names) or tuple(f"band-{i + 1}" for i in range(bands)),
            class_names=table.class_names,
            label_kind=table.label_kind,
            image_size=self.image_size or height,
            scale=scale,
            group_names=table.group_names,
            source=self.source,
        )


def _by_folder(files: Files, place: Path) -> Table:
    names = [
        name
        for name in files.names()
        if name.lower().endswith(IMAGES) and len(PurePosixPath(name).parts) > 1
    ]
    if not names:
        raise DataError(
            f"no images in the folders of {place}; wanted one folder a class with "
            f"{', '.join(IMAGES)} files, or a labels file"
        )
    labels, class_names = _numbered([PurePosixPath(name).parent.name for name in names])
    return Table(names, labels, class_names, base.no_groups(len(names)))


def _from_rows(rows: Sequence[dict[str, str]], columns: Sequence[str], shown: str) -> Table:
    """Turn a CSV file's rows into a table."""
    if FILE not in columns or not rows or len(set(columns)) < len(columns):
        raise DataError(
            f"{shown} has {len(rows)} rows and the columns {', '.join(columns) or 'none'}; wanted "
            f"a row an image, a column {FILE!r}, and a column {LABEL!r} or one 0/1 column a label"
        )
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"{shown}, line {number}: wanted {len(columns)} fields")
    names = [row[FILE] for row in rows]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{shown} names {twice} twice; wanted one line an image")

    splits = [row[SPLIT] for row in rows] if SPLIT in columns else []
    for number, split in enumerate(splits, start=2):
        if split not in SPLITS:
            raise DataError(
                f"{shown}, line {number}: split {split!r}; wanted one of {', '.join(SPLITS)}"
            )
    groups = base.no_groups(len(rows))
    group_names: tuple[str, ...] = ()
    if GROUP in columns:
        positions, group_names = _numbered([row[GROUP] for row in rows])
        groups = positions.astype(np.int16)

    if LABEL in columns:
        labels, class_names = _numbered([row[LABEL] for row in rows])
        return Table(names, labels, class_names, groups, group_names, splits)
    class_names = tuple(column for column in columns if column not in (FILE, SPLIT, GROUP))
    for number, row in enumerate(rows, start=2):
        for column in class_names:
            if row[column].strip() not in ("0", "1"):
                raise DataError(
                    f"{shown}, line {number}: {column} is {row[column]!r}, wanted 0 or 1"
                )
    marks = np.array([[int(row[c]) for c in class_names] for row in rows], dtype=np.uint8)
    return Table(names, marks, class_names, groups, group_names, splits)


def _numbered(values: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number values in alphabetical order; give the numbers and the names."""
    names, numbers = np.unique(np.array(values, dtype=str), return_inverse=True)
    return numbers.astype(np.int64), tuple(names.tolist())


def _read(
    files: Files,
    names: Sequence[str],
    description: Description,
    resize: bool,
    positions: NDArray[np.int64],
) -> Iterator[Image]:
    def read(name: str) -> Image:
        image = decode(name, files.read(name))
        bands, side, _ = description.image_shape
        if len(image) != bands or image.dtype != description.pixel_dtype:
            raise DataError(
                f"{name} is {image.dtype} with {len(image)} bands, the first image "
                f"{description.pixel_dtype} with {bands}; convert or remove it"
            )
        if image.shape[1:] == (side, side):
            return image
        if not resize:
            raise DataError(
                f"{name} has {image.shape[2]} x {image.shape[1]} pixels, the first image {side} x "
                f"{side}; set image_size to resize all"
            )
        return np.asarray(base.resized(image, side).round(), dtype=image.dtype)

    return decoded(read, [names[position] for position in positions])
