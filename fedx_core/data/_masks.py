"""Images with a mask each: an image of one band beside it, whose values are classes of pixels.

Masks lie as their images do, in a folder of their own: ``masks/b/1.png`` is that of
``images/b/1.jpg`` and of ``b/1.jpg``, ``train/masks/1.tif`` that of ``train/images/1.tif``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.data import base
from fedx_core.data._files import Files
from fedx_core.data._images import classes_of
from fedx_core.data._labelled import Labelled, split_of, tidy
from fedx_core.data._tree import listed, refuse_twins
from fedx_core.images.strata import IGNORED

Size = tuple[int, int]
"""Height and width."""
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, by name.

    Args:
        images: relative to the source, in alphabetical order.
        masks: of each, likewise.
        splits: of each, or empty where folders name none.
        lonely: masks without an image.
    """

    images: Sequence[str]
    masks: Sequence[str]
    splits: Sequence[str]
    lonely: int


def check(masks: str, class_names: Sequence[str], labels: str) -> None:
    """Refuse settings of masks that do not go together.

    Raises:
        ConfigError: says which.
    """
    if not masks:
        if class_names:
            raise ConfigError("class_names names values of masks; set masks, or leave it out")
        return
    if labels not in ("", base.NO_LABELS):
        raise ConfigError(f"masks hold the labels, and labels is {labels!r}; set one of them")
    if "/" in masks:
        raise ConfigError(f"masks must be the name of one folder in the source, got {masks!r}")
    names = [tidy(name) for name in class_names]
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names) or "" in names:
        raise ConfigError(
            f"class_names must name what the masks' values 0, 1, ... stand for, 2 to {IGNORED} "
            f"different names, got {list(class_names)}"
        )


def paired(files: Files, place: Path, folder: str) -> Pairs:
    """Find the mask of each image in a source.

    Args:
        files: of the source.
        place: of it, for messages.
        folder: name of the folders that hold masks.

    Raises:
        DataError: an image has none, or it is not clear which.
    """
    names, _ = listed(files, loose=True)
    where = {name: _depth(name, folder) for name in names}
    masks = [name for name in names if where[name] is not None]
    images = [name for name in names if where[name] is None]
    if not masks or not images:
        raise DataError(
            f"{place} has {len(masks)} masks in folders named {folder!r} and {len(images)} images "
            "beside them; wanted images, and a PNG or TIFF of the same name for each in there"
        )
    refuse_twins(files, images)
    depths = {where[mask] for mask in masks}
    if len(depths) > 1:
        raise DataError(
            f"folders named {folder!r} lie at different depths in {place}, so it is not clear "
            "which image a mask is of; put all masks into one, laid out as the images are"
        )
    depth = depths.pop()
    assert depth is not None
    mask_of = _by_key(masks, depth)
    image_of = _by_key(images, depth)
    for key, image in image_of.items():
        if key not in mask_of:
            parts = [*PurePosixPath(key).parts]
            wanted = PurePosixPath(*parts[:depth], folder, *parts[depth:])
            raise DataError(
                f"{image} has no mask; add {wanted}.png or .tif, or take the image out of {place}"
            )
        if PurePosixPath(mask_of[key]).suffix.lower() in _LOSSY:
            raise DataError(
                f"{mask_of[key]} is a JPEG, which changes values; save masks as PNG or TIFF"
            )
    tops = [split_of(PurePosixPath(key).parts[0]) for key in image_of]
    return Pairs(
        list(image_of.values()),
        [mask_of[key] for key in image_of],
        [top or "" for top in tops] if all(tops) and "train" in tops else [],
        len(mask_of.keys() - image_of.keys()),
    )


def labelled(files: Files, pairs: Pairs, class_names: Sequence[str], side: int) -> Labelled:
    """Read all masks; they are held in memory, a byte a pixel.

    Args:
        files: of the source.
        pairs: of :func:`paired`.
        class_names: what values stand for, from 0 on.
        side: to bring masks to, without mixing classes; 0 wants all square and of one size.

    Raises:
        DataError: a mask can't be read, holds other values, or is of another size than the first.
    """

    def one(name: str) -> NDArray[np.uint8]:
        found = classes_of(name, files.read(name))
        wrong = (found >= len(class_names)) & (found != IGNORED)
        if wrong.any():
            raise DataError(
                f"{name} holds the value {found[wrong].max()}, and class_names names "
                f"{len(class_names)} classes, 0 to {len(class_names) - 1} ({IGNORED} is none); "
                "name it, or mend the mask"
            )
        return found

    maps: NDArray[np.uint8] | None = None
    sizes: list[Size] = []
    for row, found in enumerate(base.decoded(one, pairs.masks)):
        height, width = found.shape
        sizes.append((height, width))
        if maps is None:
            wanted = (side, side) if side else sizes[0]
            maps = np.empty((len(pairs.masks), *wanted), np.uint8)
        if not side and (height != width or sizes[0] != sizes[-1]):
            raise DataError(
                f"{pairs.masks[row]} has {width} x {height} pixels; masks must be square and of "
                "one size, as images are, or set image_size to resize all"
            )
        maps[row] = _resized(found, side) if side else found
    assert maps is not None
    return Labelled(
        pairs.images,
        maps,
        tuple(tidy(name) for name in class_names),
        base.no_groups(len(maps)),
        splits=pairs.splits,
        said_by="folders of splits" if pairs.splits else "",
        notes={"ignored": f"{pairs.lonely} masks without an image"} if pairs.lonely else {},
        sizes=sizes,
    )


def check_size(image: str, found: Size, mask: Size) -> None:
    """Refuse an image whose mask has another size.

    Raises:
        DataError: says both.
    """
    if found != mask:
        raise DataError(
            f"{image} has {found[1]} x {found[0]} pixels, and its mask {mask[1]} x {mask[0]}; a "
            "mask has one value for each pixel of its image"
        )


def _depth(name: str, folder: str) -> int | None:
    """Tell how deep the folder of masks lies in a file's name; None where it is no mask."""
    folders = PurePosixPath(name).parts[:-1]
    return folders.index(folder) if folder in folders else None


def _by_key(names: Sequence[str], depth: int) -> dict[str, str]:
    """Give files by what an image and its mask share: folders but one, and the stem."""
    found: dict[str, str] = {}
    for name in names:
        parts = PurePosixPath(name).with_suffix("").parts
        key = "/".join(parts if len(parts) - 1 <= depth else parts[:depth] + parts[depth + 1 :])
        if found.setdefault(key, name) != name:
            raise DataError(
                f"{found[key]} and {name} have one name, so it is not clear which mask belongs to "
                "which image; rename one and its mask"
            )
    return found


def _resized(found: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Take the value nearest to the middle of each pixel."""
    rows, columns = ((np.arange(side) + 0.5) * size // side for size in found.shape)
    return found[np.ix_(rows.astype(int), columns.astype(int))]
