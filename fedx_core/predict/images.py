"""What a trained model says about images that it has never seen, one by one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedx_core.base.errors import DataError
from fedx_core.data import _images, _units
from fedx_core.data._files import IMAGES, TIFF, Files, Folder, open_files
from fedx_core.data._images import Header, Raster
from fedx_core.data.base import decoded
from fedx_core.images.examples import Examples
from fedx_core.learning.evaluation import predict
from fedx_core.predict.model_file import Card

Read = TypeVar("Read")
Answer = TypeVar("Answer")

AT_ONCE = 256
"""Images in memory; changes no result."""
LISTED = 100
"""Images that are named among those left out."""
DRIVERS = {
    ".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG", ".img": "HFA",
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG",
}  # fmt: skip
"""Of GDAL, by the ending of a scene."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model ready to be asked.

    Args:
        model: as its file holds it.
        card: what the file says of it.
        device: where it computes.
        batch_size: images at once, for each worker.
        workers: threads, on a CPU.
    """

    model: nn.Module
    card: Card
    device: torch.device
    batch_size: int = 100
    workers: int = 1

    def __call__(self, images: NDArray[np.integer]) -> NDArray[np.float64]:
        """Compute class probabilities.

        Args:
            images: of the card's dtype, (n, bands, height, width).

        Returns:
            float64 (n, classes): softmax where an image has one label, so that rows sum to one;
            else a sigmoid for each label.
        """
        logits = self.logits(images, self.batch_size).double()
        single = self.card.label_kind == "single"
        return (logits.softmax(1) if single else logits.sigmoid()).numpy()

    def logits(self, images: NDArray[np.integer], batch_size: int) -> Tensor:
        """Run the model; float32 on the CPU, (n, classes) or (n, classes, height, width)."""
        return predict(
            self.model,
            Examples(images, np.zeros(len(images), np.int64), np.zeros(len(images), np.int16)),
            pixels=self.card.pixels,
            batch_size=batch_size,
            device=self.device,
            workers=self.workers,
        )


@dataclass(frozen=True)
class Picture:
    """An image file that is still to be read.

    Args:
        shown: how the user knows it.
        files: where it is.
        name: in there.
    """

    shown: str
    files: Files
    name: str


def pictures(inputs: Sequence[Path]) -> list[Picture]:
    """List the images of files, folders and zips; those of a folder in alphabetical order.

    Raises:
        DataError: an input is not there or holds no image.
    """
    found = []
    for path in inputs:
        if not path.exists():
            raise DataError(f"no {path}; name images, or a folder or zip that holds them")
        if path.suffix.lower() in IMAGES:
            found.append(Picture(str(path), Folder(path.parent), path.name))
            continue
        files = open_files(path)
        names = [name for name in files.names() if name.lower().endswith(IMAGES)]
        if not names:
            raise DataError(
                f"no images in {path}, wanted {', '.join(IMAGES)} files; name another folder or zip"
            )
        found += [Picture(str(path / name), files, name) for name in names]
    return found


def predictions(
    predictor: Predictor, pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, NDArray[np.float64]]]:
    """Give each picture its class probabilities, float64 (classes,), in the pictures' order.

    Pictures that can't be used are left out, and named in an error once all others are done.

    Raises:
        DataError: images can't be read or are not as the model wants them.
    """
    card = predictor.card
    return answered(
        pictures,
        lambda picture: _units.converted(picture.shown, raster_of(picture, card), target(card)),
        lambda images: predictor(np.stack(images)),
    )


def answered(
    pictures: Sequence[Picture],
    read: Callable[[Picture], Read],
    ask: Callable[[list[Read]], Iterable[Answer]],
) -> Iterator[tuple[Picture, Answer]]:
    """Read pictures, ask about some at a time, and give each its answer, in their order.

    Args:
        pictures: any number.
        read: raises ``DataError`` for what can't be used.
        ask: gives an answer for each that was read.

    Raises:
        DataError: some can't be used; once all others are done.
    """
    refused: list[DataError] = []

    def tried(picture: Picture) -> Read | DataError:
        try:
            return read(picture)
        except DataError as error:
            return error

    for start in range(0, len(pictures), AT_ONCE):
        some = pictures[start : start + AT_ONCE]
        good, images = [], []
        for picture, found in zip(some, decoded(tried, some), strict=True):
            if isinstance(found, DataError):
                refused.append(found)
            else:
                good.append(picture)
                images.append(found)
        if images:
            yield from zip(good, ask(images), strict=True)
    if refused:
        raise left_out_of(refused, len(pictures), "images")


def left_out_of(refused: Sequence[DataError], count: int, what: str) -> DataError:
    """Sum up why some of ``count`` images or scenes are left out; one alone speaks for itself."""
    if count == 1:
        return refused[0]
    lines = [f"\n  {error}" for error in refused[:LISTED]]
    if more := len(refused) - len(lines):
        lines.append(f"\n  and {more} more")
    return DataError(f"{len(refused)} of {count} {what} are left out:{''.join(lines)}")


def raster_of(picture: Picture, card: Card) -> Raster:
    """Decode a picture that is as the model wants it.

    Raises:
        DataError: it can't be read, or bands, pixels or size differ.
    """
    if isinstance(picture.files, Folder) and picture.name.lower().endswith(TIFF):
        # A scene may be larger than the memory, and its header says so.
        with opened(picture.shown, picture.files.root / picture.name) as file:
            check(picture.shown, _images.header_of(picture.shown, file), card)
    raster = _images.read(picture.shown, picture.files.read(picture.name))
    check(picture.shown, raster.header, card)
    return raster


def unseen(raster: Raster, places: list[int]) -> NDArray[np.bool_]:
    """Say which pixels are not there, bool (height, width): masked, or missing in all bands."""
    found = np.zeros(raster.pixels.shape[1:], bool)
    if raster.header.alpha and raster.header.bands - 1 not in places:
        found |= raster.pixels[-1] == 0
    if raster.missing is not None:
        found |= raster.missing[places].all(axis=0)
    return found


def target(card: Card) -> _units.Target:
    """Say what images a model reads."""
    return _units.Target(
        bands=card.bands,
        scale=card.pixels.scale,
        value_range=card.value_range,
        stored=_units.stored_as(card.pixels.scale, card.value_range),
        who="the model reads",
    )


def check(name: str, header: Header, card: Card, side: int | None = None) -> None:
    """Refuse what a model can't read, or would misread.

    Args:
        name: of the image.
        header: what its file says of it.
        card: of the model.
        side: of the tiles to cut from it; None wants an image of the training's size.

    Raises:
        DataError: bands, pixels or size differ; says what the model wants.
    """
    _units.bands_of(name, header, target(card))
    _units.check_unit(name, header, target(card))
    size = f"{header.width} x {header.height} pixels"
    if side is None and (header.height, header.width) != (card.image_size, card.image_size):
        raise DataError(
            f"{name} has {size}, the model was trained on {card.image_size} x {card.image_size}; "
            f"map a GeoTIFF scene with --tile {card.image_size}, or bring the image to that size"
        )
    if side is not None and min(header.height, header.width) < side:
        raise DataError(f"{name} has {size}, less than one tile of {side}; lower --tile")


@contextmanager
def opened(name: str, path: Path) -> Iterator[Any]:
    """Open a raster as what its name says it is, and as nothing else.

    Raises:
        DataError: it is of another format, or does not open.
    """
    import rasterio
    from rasterio.errors import RasterioIOError

    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise DataError(
            f"{name} is none of {', '.join(DRIVERS)}; convert it, such as with gdal_translate"
        )
    try:
        file = rasterio.open(path, driver=driver)
    except RasterioIOError as error:
        raise DataError(f"{name} does not open ({error}); replace the file") from error
    with file:
        yield file
