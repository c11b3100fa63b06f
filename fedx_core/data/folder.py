"""Your own images: one folder per class, a table of labels, or a mask beside each image."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.data import _band_names, _masks, _units, base
from fedx_core.data._files import Files, open_files
from fedx_core.data._images import Raster, read
from fedx_core.data._labelled import Labelled, split_of
from fedx_core.data._named import Images
from fedx_core.data._table import FILE, GROUP, LABEL, SPLIT, Columns, Listing, by_table, decode_text
from fedx_core.data._tree import by_folder, refuse_links, without_classes
from fedx_core.data.base import Source, Split, decoded, found
from fedx_core.images import strata
from fedx_core.images.examples import Description, Image

LOOKED_AT = 16
"""Images, besides the first, from which a unit is chosen where the first does not say it all."""


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """JPEG, PNG or TIFF images of 8 or 16 bits or fractions, all with the same bands.

    Args:
        source: a folder or a zip. Without ``labels`` it holds one folder per class, in folders
            ``train``, ``val`` and ``test`` if there are such.
        labels: a table of labels, in the source or elsewhere: a CSV file with a column ``file``,
            then either a column ``label`` or one 0/1 column per label; optionally ``split`` (train,
            val, test) and ``group`` (such as a country). Fields are parted by commas, semicolons,
            tabs, bars or blanks. A list without a head is read by what is in it, and images without
            a label take their folder's name. With a ``*`` for the split's name, such as
            ``uc_merced-*.txt``, there is one list a split. Splits that nobody gives are drawn: all
            60/20/20, or the missing ones from train. ``none`` takes all images in the source,
            however deep they lie, without labels.
        masks: name of the folder in the source that holds a mask for each image: a PNG or TIFF of
            one band and of the image's size, whose values are classes of pixels, 255 where nobody
            knows. Masks lie in it as the images lie beside it: ``masks/b/1.png`` is that of
            ``images/b/1.jpg``, whatever the other folder is called. Splits may be folders in both,
            or above both: ``train/masks``. Empty where labels are of whole images.
        class_names: what the values 0, 1, ... of masks stand for.
        file_column: names of the images, with or without their folders and ending.
        label_column: one label per image.
        split_column: of the image.
        group_column: of the image.
        label_separator: between the labels in one field, such as ``;``, where an image may have
            several; empty takes a field as one label.
        outside: whether the table may name files outside the source, and links lead there.
        image_size: side in pixels to bring all images to; 0 wants all square and of one size.
        scale: pixel value that maps to 1.0; 0 takes what the files declare, else 255 for 8 bits and
            10,000 for 16.
        value_range: least and largest value of fractions, such as [-50, 20] for radar in dB, over
            which they are brought to 16 bits; empty takes twice to four times what some images
            have.
        band_names: which bands to read, in this order, where the files name theirs; else names in
            the files' order. Empty takes the files' names, or numbers them.
    """

    tables: ClassVar[bool] = True

    source: str
    labels: str = ""
    masks: str = ""
    class_names: tuple[str, ...] = ()
    file_column: str = FILE
    label_column: str = LABEL
    split_column: str = SPLIT
    group_column: str = GROUP
    label_separator: str = ""
    outside: bool = False
    image_size: int = 0
    scale: float = 0.0
    value_range: tuple[float, ...] = ()
    band_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 0:
            raise ConfigError(f"image_size must be 0 (as it is) or more, got {self.image_size}")
        if self.scale < 0:
            raise ConfigError(f"scale must be 0 (by the pixels' width) or more, got {self.scale}")
        _units.check_range(self.value_range, self.scale)
        _masks.check(self.masks, self.class_names, self.labels)

    def open(self) -> Source:
        """List the images with their labels, and look at the first.

        Raises:
            SourceMissingError: the folder, the table or an image that it names is not there.
            DataError: the table or the first image can't be used.
        """
        place = found("images", [Path(self.source)], "name the folder or zip that holds them")
        files = open_files(place)
        table = self._labelled(files, place)
        if len(table.class_names) < 2 and self.labels != base.NO_LABELS:
            raise DataError(
                f"{place} has {len(table.class_names)} class, wanted two or more: one folder a "
                "class, or a labels file; or set labels: none, for objectives that need none"
            )
        if not self.outside:
            refuse_links(files, place, table.names)
        looked = _some(files, table.names)
        description = self._description(place, table, looked)
        first = looked[0].header
        for size in table.sizes[:1]:
            _masks.check_size(table.names[0], (first.height, first.width), size)
        known = strata.borne(table.labels, len(table.class_names))
        unit = (description.scale, description.value_range)
        target = _units.Target(
            bands=description.bands,
            scale=unit[0],
            value_range=unit[1],
            stored=_units.stored_as(*unit) if first.declares else first.dtype,
            who="the first image has",
        )
        if table.splits:
            positions, drawn = base.given_splits(table.splits, known, self.seed)
            note = "; ".join(filter(None, (table.said_by, drawn)))
        else:
            positions = base.random_splits(known, self.seed)
            note = "drawn 60/20/20, class by class"
        splits = {}
        for name, rows in positions.items():
            names = [table.names[row] for row in rows.tolist()]
            sizes = [table.sizes[row] for row in rows.tolist()] if table.sizes else ()
            read = partial(
                _read, files, names, sizes, target, description.image_size, bool(self.image_size)
            )
            splits[name] = Split(table.labels[rows], table.groups[rows], read, names)
        return Source(
            description, splits, {"split": note, "images": len(table.names), **table.notes}
        )

    def _labelled(self, files: Files, place: Path) -> Labelled:
        if self.masks:
            pairs = _masks.paired(files, place, self.masks)
            if not self.outside:
                refuse_links(files, place, pairs.masks)
            return _masks.labelled(files, pairs, self.class_names, self.image_size)
        if not self.labels:
            return by_folder(files, place)
        if self.labels == base.NO_LABELS:
            return without_classes(files, place)
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

    def _description(self, place: Path, table: Labelled, looked: Sequence[Raster]) -> Description:
        name, first = table.names[0], looked[0].header
        if not self.image_size and first.height != first.width:
            raise DataError(
                f"{name} has {first.width} x {first.height} pixels; images must be square, or set "
                "image_size to resize them"
            )
        scale, value_range = self._unit(name, looked)
        return Description(
            name=place.stem,
            bands=self._bands(name, looked[0]),
            class_names=table.class_names,
            label_kind=table.label_kind,
            image_size=self.image_size or first.height,
            scale=scale,
            value_range=value_range,
            group_names=table.group_names,
            source=self.source,
        )

    def _bands(self, name: str, first: Raster) -> tuple[str, ...]:
        shown = first.header.shown
        if not self.band_names:
            counted = tuple(f"band-{i + 1}" for i in range(len(shown)))
            return shown if _band_names.named(shown) else counted
        most = first.header.bands
        possible = {most, most - bool(first.header.alpha)}
        if _band_names.named(shown) or len(self.band_names) in possible:
            return tuple(self.band_names)
        raise DataError(
            f"{name} has {len(shown)} bands, but band_names names {len(self.band_names)}; name each"
        )

    def _unit(self, name: str, looked: Sequence[Raster]) -> tuple[float, tuple[float, ...]]:
        first = looked[0].header
        plain = not first.declares and not first.dtype.startswith("float")
        if self.value_range:
            if plain:
                raise DataError(
                    f"{name} has {first.dtype} pixels that declare no scale; value_range is for "
                    "fractions: leave it out"
                )
            _units.check_steps(name, looked, self.value_range)
            return _units.SCALE, self.value_range
        if not self.scale:
            scale, value_range = _units.unit_of(name, looked)
            if value_range and value_range != _units.INT16:
                _units.check_steps(name, looked, value_range)
            return scale, value_range
        if not first.declares and not first.dtype.startswith("uint"):
            raise DataError(
                f"{name} has {first.dtype} pixels, which scale does not fit; leave it out, or set "
                "value_range for fractions"
            )
        if not first.declares and (first.dtype == "uint8") != (self.scale <= 255):
            raise DataError(
                f"{name} has {first.dtype} pixels, which scale {self.scale:g} does not fit; "
                "set up to 255 for 8 bits and more for 16, or 0"
            )
        return self.scale, ()


def _some(files: Files, names: Sequence[str]) -> list[Raster]:
    """Read the first image, and some others where a unit is to be found."""

    def one(name: str) -> Raster:
        return read(name, files.read(name))

    (first,) = decoded(one, names[:1])
    if not first.header.declares and first.header.dtype.startswith("uint"):
        return [first]
    others = np.unique(np.linspace(1, len(names) - 1, LOOKED_AT).astype(int)).tolist()
    return [first, *decoded(one, [names[n] for n in others if n])]


def _listing(path: Path, split: str = "") -> Listing:
    try:
        return Listing(decode_text(path.read_bytes(), str(path)), str(path), split)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error}); name a CSV file") from error


def _read(
    files: Files,
    names: Sequence[str],
    sizes: Sequence[_masks.Size],
    target: _units.Target,
    side: int,
    resize: bool,
    positions: NDArray[np.int64],
) -> Iterator[Image]:
    def one(position: int) -> Image:
        name = names[position]
        image = _units.converted(name, read(name, files.read(name)), target)
        if sizes:
            _masks.check_size(name, (image.shape[1], image.shape[2]), sizes[position])
        if image.shape[1:] == (side, side):
            return image
        if not resize:
            raise DataError(
                f"{name} has {image.shape[2]} x {image.shape[1]} pixels, the first image {side} x "
                f"{side}; set image_size to resize all"
            )
        return np.asarray(base.resized(image, side).round(), dtype=image.dtype)

    return decoded(one, positions.tolist())
