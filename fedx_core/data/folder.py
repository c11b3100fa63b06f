"""Your own images: one folder a class, or a table of labels."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedx_core.data import base
from fedx_core.data._files import Files, decode, open_files
from fedx_core.data._labelled import Labelled, split_of
from fedx_core.data._named import Images
from fedx_core.data._table import FILE, GROUP, LABEL, SPLIT, Columns, Listing, by_table, decode_text
from fedx_core.data._tree import by_folder
from fedx_core.data.base import Source, Split, decoded, found
from fedx_core.errors import ConfigError, DataError, SourceMissingError
from fedx_core.examples import Description, Image


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """JPEG, PNG or TIFF images, 8 or 16 bits a pixel, all with the same bands.

    Args:
        source: a folder or a zip. Without ``labels`` it holds one folder a class, in folders
            ``train``, ``val`` and ``test`` if there are such.
        labels: a table of labels, in the source or elsewhere: a CSV file with a column ``file``,
            then either a column ``label`` or one 0/1 column a label; optionally ``split`` (train,
            val, test) and ``group`` (such as a country). Fields are parted by commas, semicolons,
            tabs, bars or blanks. A list without a head is read by what is in it, and images without
            a label take their folder's name. With a ``*`` for the split's name, such as
            ``uc_merced-*.txt``, there is one list a split. Splits that nobody gives are drawn: all
            60/20/20, or the missing ones from train.
        file_column: names of the images, with or without their folders and ending.
        label_column: one label an image.
        split_column: of the image.
        group_column: of the image.
        label_separator: between the labels in one field, such as ``;``, where an image may have
            several; empty takes a field as one label.
        outside: whether the table may name files outside the source.
        image_size: side in pixels to bring all images to; 0 wants all square and of one size.
        scale: pixel value that maps to 1.0; 0 takes 255 for 8 bits and 10,000 for 16.
        band_names: in the files' order; empty numbers them.
    """

    source: str
    labels: str = ""
    file_column: str = FILE
    label_column: str = LABEL
    split_column: str = SPLIT
    group_column: str = GROUP
    label_separator: str = ""
    outside: bool = False
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
        table = self._labelled(files, place)
        if len(table.class_names) < 2:
            raise DataError(
                f"{place} has {len(table.class_names)} class, wanted two or more: one folder a "
                "class, or a labels file"
            )
        first = next(decoded(lambda name: decode(name, files.read(name)), table.names[:1]))
        description = self._description(place, table, first)
        if table.splits:
            positions, drawn = base.given_splits(table.splits, table.labels, self.seed)
            note = "; ".join(filter(None, (table.said_by, drawn)))
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
        return Source(
            description, splits, {"split": note, "images": len(table.names), **table.notes}
        )

    def _labelled(self, files: Files, place: Path) -> Labelled:
        if not self.labels:
            return by_folder(files, place)
        columns = Columns(
            self.file_column,
            self.label_column,
            self.split_column,
            self.group_column,
            self.label_separator,
        )
        images = Images(files, place, outside=self.outside)
        return by_table(self._listings(files, place), columns, images)

    def _listings(self, files: Files, place: Path) -> list[Listing]:
        """Read the table, or one list a split where a star stands for the split's name."""
        if "*" not in self.labels:
            if files.holds(self.labels):
                path = Path(self.labels)
                shown = str(path if path.is_absolute() else place / path)
                return [Listing(decode_text(files.read(self.labels), shown), shown)]
            path = found("labels", [place / self.labels, Path(self.labels)], "name a CSV file")
            return [_listing(path)]
        pattern = re.compile(re.escape(self.labels).replace(r"\*", "([^/]+)"))
        inside = {name: match for name in files.every() if (match := pattern.fullmatch(name))}
        listings = []
        for name, match in inside.items():
            if split := split_of(match[1]):
                shown = f"{place}/{name}"
                listings.append(Listing(decode_text(files.read(name), shown), shown, split))
        if not inside:
            above = Path(self.labels).parent
            for path in sorted(above.glob(Path(self.labels).name)):
                match = pattern.fullmatch(path.as_posix())
                if match and (split := split_of(match[1])):
                    listings.append(_listing(path, split))
        if not listings:
            raise SourceMissingError(
                f"no lists {self.labels} in {place} or here with train, val or test for the star; "
                "name one table, or lists that differ in their split's name alone"
            )
        return listings

    def _description(self, place: Path, table: Labelled, first: Image) -> Description:
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


def _listing(path: Path, split: str = "") -> Listing:
    try:
        return Listing(decode_text(path.read_bytes(), str(path)), str(path), split)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error}); name a CSV file") from error


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
