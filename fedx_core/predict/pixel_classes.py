"""What a trained model says of each pixel of images that it has never seen: a class.

Masks and maps of classes look alike: class numbers of 8 bits with a palette, ``strata.IGNORED``
where nothing is known. So they can be read as labels are.
"""

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, StoreError
from fedx_core.data import _units
from fedx_core.data._files import Folder
from fedx_core.images.examples import Image
from fedx_core.images.strata import IGNORED
from fedx_core.predict.images import Picture, Predictor, answered, raster_of, target, unseen
from fedx_core.predict.model_file import Card

PIXELS = 1 << 18
"""At once for each worker, in whole images; bounds the memory for logits and changes no result."""


@dataclass(frozen=True)
class Seen:
    """An image as the model reads it.

    Args:
        image: of the model's dtype, (bands, height, width); what was missing is filled.
        unseen: bool (height, width): pixels that are not there.
    """

    image: Image
    unseen: NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.image.nbytes + self.unseen.nbytes


def classified(
    predictor: Predictor, images: Sequence[Image]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Say the most probable class of each pixel, image by image.

    Args:
        predictor: a model that says a class for each pixel.
        images: of the card's dtype, (bands, height, width), all of one size; at least one.

    Yields:
        Classes, uint8 (height, width), and their probabilities, float32 of the same shape.
    """
    height, width = images[0].shape[1:]
    batch = max(PIXELS // (height * width), 1)
    at_once = batch * predictor.workers
    for start in range(0, len(images), at_once):
        logits = predictor.logits(np.stack(images[start : start + at_once]), batch)
        surest, classes = logits.softmax(1).max(1)
        yield from zip(classes.numpy().astype(np.uint8), surest.numpy(), strict=True)


def masks(
    predictor: Predictor, pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, NDArray[np.uint8]]]:
    """Give each picture its mask, uint8 (height, width), in the pictures' order.

    Raises:
        DataError: images can't be read or are not as the model wants them; once all others are
            done.
    """
    wanted = target(predictor.card)

    def read(picture: Picture) -> Seen:
        raster = raster_of(picture, predictor.card)
        places = _units.bands_of(picture.shown, raster.header, wanted)
        return Seen(_units.converted(picture.shown, raster, wanted), unseen(raster, places))

    def ask(some: list[Seen]) -> Iterator[NDArray[np.uint8]]:
        found = classified(predictor, [one.image for one in some])
        for one, (classes, _) in zip(some, found, strict=True):
            classes[one.unseen] = IGNORED
            yield classes

    return answered(pictures, read, ask)


def shares(mask: NDArray[np.uint8], card: Card) -> NDArray[np.float64]:
    """Return the share of each class among the known pixels of a mask, float64 (classes,)."""
    counts = np.bincount(mask[mask != IGNORED], minlength=len(card.class_names))
    return np.asarray(counts / max(counts.sum(), 1))


def mask_paths(pictures: Sequence[Picture], out: Path) -> dict[Picture, Path]:
    """Name the masks: as the pictures are within their folder or zip, as PNG.

    Raises:
        ConfigError: two masks would have one name, or a mask that of an image.
    """
    paths = {picture: (out / picture.name).with_suffix(".png") for picture in pictures}
    taken = {
        (picture.files.root / picture.name).resolve()
        for picture in pictures
        if isinstance(picture.files, Folder)
    }
    for picture in pictures:
        path = paths[picture]
        if path.resolve() in taken:
            raise ConfigError(
                f"the mask of {picture.shown} would be {path}, which is that of another image or "
                "an image itself; choose another --out, or ask for images of one name one after "
                "another"
            )
        taken.add(path.resolve())
    return paths


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a mask as a PNG with a palette, and the folders above it.

    Raises:
        StoreError: it can't be written.
    """
    from PIL import Image as pillow

    picture = pillow.fromarray(mask)
    picture.putpalette([part for colour in colours() for part in colour])
    beside = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            picture.save(beside, format="PNG", transparency=IGNORED)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"can't write {path}: {error}; choose another folder") from error


def colours() -> list[tuple[int, int, int]]:
    """Choose red, green and blue for each of 256 numbers: like classes far apart, unknown black."""
    found = []
    for number in range(IGNORED):
        # Hues a golden section apart are never close to those just before.
        parts = colorsys.hsv_to_rgb(0.55 + number * 0.618034, 0.65, 0.9 - 0.15 * (number % 3))
        red, green, blue = (round(255 * part) for part in parts)
        found.append((red, green, blue))
    return [*found, (0, 0, 0)]
