"""What torchgeo's data sets give, example by example: labels, names of bands, pixels.

Nothing here imports torchgeo: its data sets are asked by what they have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.data import _units, base
from fedx_core.data._images import Header, Raster
from fedx_core.data.base import decoded
from fedx_core.images.examples import Description, Image

Examples = Any
"""A torchgeo data set: ``len`` and, by position, a dict of tensors."""

Parts = Mapping[str, Examples]
Labels = Mapping[str, NDArray[np.integer]]


def labels_of(parts: Parts) -> tuple[tuple[str, ...], Labels]:
    """Read all labels; give the names of the classes, and int64 (n,) or uint8 (n, classes)."""
    found = {part: _class_names(examples) for part, examples in parts.items()}
    # MillionAID numbers the classes that a part has; the others have the same in each.
    every = next(iter(found.values()))
    if any(each != every for each in found.values()):
        every = tuple(sorted({name for each in found.values() for name in each}))
    raw = {part: _raw_labels(examples) for part, examples in parts.items()}
    flat = [marks for each in raw.values() for marks in each]
    sizes = {len(marks) for marks in flat}
    if sizes == {1}:
        return every, {
            part: np.array([every.index(found[part][m[0]]) for m in marks], dtype=np.int64)
            for part, marks in raw.items()
        }
    hot = sizes == {len(every)} and all(set(marks.tolist()) <= {0, 1} for marks in flat)
    return every, {
        part: np.stack([_several(m, found[part], every, hot) for m in marks])
        for part, marks in raw.items()
    }


def _several(
    marks: NDArray[np.int64], names: tuple[str, ...], every: tuple[str, ...], hot: bool
) -> NDArray[np.uint8]:
    row = np.zeros(len(every), dtype=np.uint8)
    for position in np.flatnonzero(marks) if hot else marks:
        row[every.index(names[position])] = 1
    return row


def _raw_labels(examples: Examples) -> list[NDArray[np.int64]]:
    """Give each example's label as a vector; images are read only where nothing else has them."""
    targets = getattr(examples, "targets", None)
    if isinstance(examples, image_folder()) and targets is not None:
        return [np.array([target], dtype=np.int64) for target in targets]

    def read(row: int) -> NDArray[np.int64]:
        label = _example(examples, row)["label"]
        return np.atleast_1d(np.asarray(label, dtype=np.int64))

    return list(decoded(read, range(len(examples))))


def _class_names(examples: Examples) -> tuple[str, ...]:
    sets = getattr(examples, "class_sets", None)
    if sets is not None:
        return tuple(sets[examples.num_classes])
    return tuple(str(name) for name in examples.classes)


def names_of_bands(examples: Examples, count: int) -> tuple[str, ...]:
    """Take torchgeo's names where it has one for each band; else colours, or numbers."""
    for attribute in ("bands", "all_bands", "all_band_names"):
        names = getattr(examples, attribute, None)
        if isinstance(names, Sequence) and not isinstance(names, str) and len(names) == count:
            return tuple(str(name) for name in names)
    if count == 3:
        return ("red", "green", "blue")  # torchgeo's pictures are read as RGB
    return tuple(f"band-{i + 1}" for i in range(count))


def pixels(examples: Examples, row: int) -> NDArray[np.float32]:
    """Read one image as torchgeo gives it: float32 (bands, height, width)."""
    example = _example(examples, row)
    keys = ["image"] if "image" in example else [k for k in example if k.startswith("image_")]
    if len(keys) != 1:
        raise ConfigError(
            f"{type(examples).__name__} gives the images {', '.join(keys) or 'none'}; wanted one: "
            "choose one sensor in options"
        )
    image = np.asarray(example[keys[0]], dtype=np.float32)
    if image.ndim != 3:
        raise ConfigError(
            f"{type(examples).__name__} gives images of {image.ndim} dimensions; wanted (bands, "
            "height, width): choose another mode in options"
        )
    return image


def stored_kind(part: Examples, looked: Sequence[NDArray[np.float32]]) -> str:
    """Say of which kind the pixels are that torchgeo gives as float32."""
    least = min(float(image.min()) for image in looked)
    most = max(float(image.max()) for image in looked)
    # torchgeo brings some pictures of UC Merced to one size, and pixels between whole numbers.
    whole = isinstance(part, image_folder()) or all(
        bool((image == np.round(image)).all()) for image in looked
    )
    if not whole or least < 0:
        return "float32"
    return "uint8" if most <= 255 else "uint16"


def raster(shown: str, image: NDArray[np.float32], stored: str) -> Raster:
    bands, height, width = image.shape
    missing = ~np.isfinite(image)
    header = Header(
        dtype=stored, bands=bands, height=height, width=width,
        names=("",) * bands, scales=(1.0,) * bands, offsets=(0.0,) * bands,
    )  # fmt: skip
    if stored == "float32":
        return Raster(header, image, missing if missing.any() else None)
    limits = np.iinfo(stored)
    if missing.any() or image.min() < limits.min or image.max() > limits.max:
        raise DataError(
            f"{shown} has pixels from {image.min():g} to {image.max():g}, which {stored} does not "
            "hold; set scale: 10000"
        )
    return Raster(header, image.round().astype(stored), None)


def read(
    places: Sequence[tuple[Examples, int]],
    description: Description,
    resize: bool,
    positions: NDArray[np.int64],
) -> Iterator[Image]:
    bands, side, _ = description.image_shape
    stored = _units.stored_as(description.scale, description.value_range)
    target = _units.Target(
        bands=description.bands,
        scale=description.scale,
        value_range=description.value_range,
        stored=stored,
        who="the data set has",
    )

    def read(place: tuple[Examples, int]) -> Image:
        examples, row = place
        image = pixels(examples, row)
        shown = f"example {row} of {description.name}"
        if len(image) != bands:
            raise DataError(f"{shown} has {len(image)} bands, the first has {bands}; remove it")
        if image.shape[1:] != (side, side):
            if not resize:
                raise DataError(
                    f"{shown} has {image.shape[2]} x {image.shape[1]} pixels, the first {side} x "
                    f"{side}; set image_size to resize all"
                )
            image = base.resized(image, side)
        return _units.converted(shown, raster(shown, image, stored), target)

    return decoded(read, [places[position] for position in positions])


def _example(examples: Examples, row: int) -> Mapping[str, Any]:
    try:
        example: Mapping[str, Any] = examples[row]
    except Exception as error:  # whatever the reader of a format raises on damaged files
        raise DataError(
            f"torchgeo can't read example {row} of {type(examples).__name__}: {one_line(error)}; "
            "fetch the data again"
        ) from error
    return example


def image_folder() -> type[Any]:
    from torchvision.datasets import ImageFolder

    kind: type[Any] = ImageFolder
    return kind


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
