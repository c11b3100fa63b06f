"""What a trained model says about images that it has never seen, one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedx_core.data._files import IMAGES, TIFF, Files, Folder, decode, open_files
from fedx_core.data.base import decoded
from fedx_core.errors import DataError
from fedx_core.evaluation import predict
from fedx_core.examples import Examples, Image
from fedx_core.model_file import Card

AT_ONCE = 256
"""Images in memory; changes no result."""


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
        logits = predict(
            self.model,
            Examples(images, np.zeros(len(images), np.int64), np.zeros(len(images), np.int16)),
            pixels=self.card.pixels,
            batch_size=self.batch_size,
            device=self.device,
            workers=self.workers,
        ).double()
        single = self.card.label_kind == "single"
        return (logits.softmax(1) if single else logits.sigmoid()).numpy()


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
            raise DataError(f"no images in {path}; wanted {', '.join(IMAGES)} files")
        found += [Picture(str(path / name), files, name) for name in names]
    return found


def predictions(
    predictor: Predictor, pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, NDArray[np.float64]]]:
    """Give each picture its class probabilities, float64 (classes,), in the pictures' order.

    Raises:
        DataError: an image can't be read or is not as the model wants it.
    """
    card = predictor.card

    def read(picture: Picture) -> Image:
        if isinstance(picture.files, Folder) and picture.name.lower().endswith(TIFF):
            # A scene may be larger than the memory, and its header says so.
            check(picture.shown, _header(picture.files.root / picture.name), card)
        image = decode(picture.shown, picture.files.read(picture.name))
        check(picture.shown, Found(image.dtype.name, *image.shape), card)
        return image

    for start in range(0, len(pictures), AT_ONCE):
        some = pictures[start : start + AT_ONCE]
        yield from zip(some, predictor(np.stack(list(decoded(read, some)))), strict=True)


@dataclass(frozen=True)
class Found:
    """What an image is before it is looked at."""

    dtype: str
    bands: int
    height: int
    width: int


def check(name: str, found: Found, card: Card, side: int | None = None) -> None:
    """Refuse what a model can't read, or would misread.

    Args:
        name: of the image.
        found: what it is.
        card: of the model.
        side: of the tiles to cut from it; None wants an image of the training's size.

    Raises:
        DataError: bands, pixels or size differ; says what the model wants.
    """
    if found.bands != len(card.bands):
        raise DataError(
            f"{name} has {found.bands} bands, the model reads {len(card.bands)}: "
            f"{', '.join(card.bands)}; stack these, in this order"
        )
    wanted = "uint8" if card.pixels.scale <= 255 else "uint16"
    if found.dtype != wanted:
        raise DataError(
            f"{name} has {found.dtype} pixels, the model reads {wanted} in which "
            f"{card.pixels.scale:g} stands for 1; convert the image"
        )
    size = f"{found.width} x {found.height} pixels"
    if side is None and (found.height, found.width) != (card.image_size, card.image_size):
        raise DataError(
            f"{name} has {size}, the model was trained on {card.image_size} x {card.image_size}; "
            f"map a GeoTIFF scene with --tile {card.image_size}, or bring the image to that size"
        )
    if side is not None and min(found.height, found.width) < side:
        raise DataError(f"{name} has {size}, less than one tile of {side}; lower --tile")


def _header(path: Path) -> Found:
    import rasterio

    try:
        with rasterio.open(path) as file:
            return Found(file.dtypes[0], file.count, file.height, file.width)
    except rasterio.errors.RasterioIOError as error:
        raise DataError(f"{path} does not open ({error}); replace the file") from error
