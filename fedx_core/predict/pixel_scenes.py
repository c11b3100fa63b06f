"""Maps of scenes with a class for each pixel, of the scene's own resolution.

A scene is cut into tiles that overlap by half of their side. Near its edges a tile knows little of
what surrounds a pixel; so where tiles overlap, each gives the half that is nearer to its middle.
The outer quarter of a tile thus counts only at the scene's edge, and a seam is seen no more once
classes depend on what is nearer than a quarter of a tile. Tiles at the right and lower edge are
moved inwards to be whole.

A row of tiles is read, asked about and written at a time, and logits are there of few tiles at once
(``pixel_classes.PIXELS``), so memory does not grow with a scene's height, and with its width by a
few bytes a pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedx_core.data import _images, _units
from fedx_core.data._images import Header
from fedx_core.images.examples import Image
from fedx_core.images.strata import IGNORED
from fedx_core.predict.images import Predictor, target, unseen
from fedx_core.predict.pixel_classes import PIXELS, Seen, classified, colours
from fedx_core.predict.scenes import Watch, paths, reading, scene_of, writing

UNKNOWN = IGNORED
"""Nodata of both maps."""


@dataclass(frozen=True, kw_only=True)
class PixelMap:
    """What came of a scene.

    Args:
        classes: path of the class map: a band of class numbers.
        probabilities: path of the probabilities of the classes that are said: a band of whole per
            cent.
        pixels: that have a class.
        left_out: pixels of nodata.
        counts: pixels by class name; classes that no pixel has are left out.
        georeferenced: whether the scene says where it is; the maps say it too then.
    """

    classes: Path
    probabilities: Path
    pixels: int
    left_out: int
    counts: Mapping[str, int]
    georeferenced: bool


class Span(NamedTuple):
    """A tile along one side of a scene: where it starts, and from where to where it counts."""

    start: int
    first: int
    last: int


def map_pixels(
    predictor: Predictor,
    source: Path,
    out: Path,
    *,
    tile: int,
    watch: Watch = lambda rows, total: rows,
) -> PixelMap:
    """Map a scene pixel by pixel; maps that are there already are replaced.

    Args:
        predictor: a model that says a class for each pixel.
        source: a GeoTIFF, or a raster of another ending in ``predict.DRIVERS``.
        out: folder of the maps.
        tile: side of a tile in pixels.
        watch: is given the rows of tiles and their number, and passes them on.

    Raises:
        DataError: the scene can't be read, or is not as the model wants it.
        StoreError: the maps can't be written.
    """
    names = predictor.card.class_names
    of_classes, of_probabilities = paths(source, out)
    counts = np.zeros(UNKNOWN + 1, np.int64)
    with scene_of(source, predictor.card, tile) as (scene, header):
        profile = _profile(scene)
        with (
            writing(of_classes, profile) as classes,
            writing(of_probabilities, profile) as probabilities,
        ):
            _describe(classes, probabilities, names)
            rows = spans(scene.height, tile)
            for index in watch(range(len(rows)), len(rows)):
                row = rows[index]
                with reading(source, row.start):
                    said, surest = _row(predictor, source, scene, header, row, tile)
                window = ((row.first, row.last), (0, scene.width))
                classes.write(said, 1, window=window)
                probabilities.write(surest, 1, window=window)
                counts += np.bincount(said.ravel(), minlength=len(counts))
        georeferenced = scene.crs is not None
    return PixelMap(
        classes=of_classes,
        probabilities=of_probabilities,
        pixels=int(counts[:UNKNOWN].sum()),
        left_out=int(counts[UNKNOWN]),
        counts={name: int(counts[n]) for n, name in enumerate(names) if counts[n]},
        georeferenced=georeferenced,
    )


def spans(length: int, tile: int) -> list[Span]:
    """Lay tiles along a side of a scene that is at least one tile long.

    Returns:
        Spans in order, whose counting parts lie side by side and make up the whole side.
    """
    starts = [*range(0, length - tile, tile - 2 * (tile // 4)), length - tile]
    middles = [(one + other + tile) // 2 for one, other in pairwise(starts)]
    return [
        Span(start, *part)
        for start, part in zip(starts, pairwise([0, *middles, length]), strict=True)
    ]


def _profile(scene: Any) -> dict[str, Any]:
    return {
        "height": scene.height, "width": scene.width, "crs": scene.crs,
        "transform": scene.transform, "count": 1, "dtype": "uint8", "nodata": UNKNOWN,
    }  # fmt: skip


def _describe(classes: Any, probabilities: Any, names: Sequence[str]) -> None:
    classes.update_tags(**{f"CLASS_{n}": name for n, name in enumerate(names)})
    classes.write_colormap(1, dict(enumerate(colours())))
    probabilities.scales = (0.01,)
    probabilities.descriptions = ("probability of the class",)


def _row(
    predictor: Predictor, source: Path, scene: Any, header: Header, row: Span, tile: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Say the classes of a row of tiles, and how probable they are in per cent.

    Returns:
        Both uint8 (rows that count, the scene's width).
    """
    classes = np.full((row.last - row.first, scene.width), UNKNOWN, np.uint8)
    percent = classes.copy()
    columns = spans(scene.width, tile)
    at_once = max(PIXELS // tile**2, 1) * predictor.workers
    for first in range(0, len(columns), at_once):
        there: list[tuple[Span, Seen]] = []
        for column in columns[first : first + at_once]:
            seen = _tile(predictor, source, scene, header, row, column, tile)
            if seen is not None:
                there.append((column, seen))
        if not there:
            continue
        found = classified(predictor, [seen.image for _, seen in there])
        for (column, seen), (said, surest) in zip(there, found, strict=True):
            inside = _inside(row, column)
            known = ~seen.unseen[inside]
            place = slice(column.first, column.last)
            classes[:, place][known] = said[inside][known]
            percent[:, place][known] = np.rint(100 * surest[inside][known])
    return classes, percent


def _tile(
    predictor: Predictor, source: Path, scene: Any, header: Header, row: Span, column: Span,
    tile: int,
) -> Seen | None:  # fmt: skip
    """Read a tile; None if none of what counts is there, or a band has nothing to fill gaps by."""
    wanted = target(predictor.card)
    window = ((row.start, row.start + tile), (column.start, column.start + tile))
    raster = _images.raster_of(scene, header, window)
    places = _units.bands_of(str(source), raster.header, wanted)
    missing = unseen(raster, places)
    gaps = missing if raster.missing is None else missing | raster.missing[places]
    if missing[_inside(row, column)].all() or gaps.all(axis=(-2, -1)).any():
        return None
    shown = f"{source}, line {row.start}, column {column.start}"
    image: Image = _units.converted(shown, raster, wanted, allowed=1.0)
    return Seen(image, missing)


def _inside(row: Span, column: Span) -> tuple[slice, slice]:
    """Say which pixels of a tile count."""
    return (
        slice(row.first - row.start, row.last - row.start),
        slice(column.first - column.start, column.last - column.start),
    )
