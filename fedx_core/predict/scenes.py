"""Maps of scenes: a scene is cut into tiles, and each tile becomes one pixel of the maps.

The maps lie on the scene: same coordinate system, same corner, pixels as large as a tile. Scenes
are read and maps are written a row of tiles at a time, so neither has to fit into the memory. Tiles
at the right and lower edge are moved inwards to be whole; their pixel keeps its place.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import DataError, FedXError, StoreError
from fedx_core.data import _images, _units
from fedx_core.data._images import Header, Raster
from fedx_core.predict.images import Predictor, check, opened, target, unseen
from fedx_core.predict.model_file import Card

Watch = Callable[[Iterable[int], int], Iterable[int]]


@dataclass(frozen=True, kw_only=True)
class SceneMap:
    """What came of a scene.

    Args:
        classes: path of the class map. One label per tile: one band of class indices. Several: a
            band of 0 and 1 for each class. The highest value stands for tiles left out.
        probabilities: path of the probabilities: float32, a band for each class; NaN for tiles left
            out.
        tiles: that the model has seen.
        left_out: tiles with a pixel of nodata.
        counts: tiles by class name; classes that no tile has are left out.
        georeferenced: whether the scene says where it is; the maps say it too then.
    """

    classes: Path
    probabilities: Path
    tiles: int
    left_out: int
    counts: Mapping[str, int]
    georeferenced: bool


def paths(source: Path, out: Path) -> tuple[Path, Path]:
    """Name the two maps of a scene: of classes, and of probabilities."""
    return out / f"{source.stem}.classes.tif", out / f"{source.stem}.probabilities.tif"


def map_scene(
    predictor: Predictor,
    source: Path,
    out: Path,
    *,
    tile: int,
    threshold: float,
    watch: Watch = lambda rows, total: rows,
) -> SceneMap:
    """Map a scene; maps that are there already are replaced.

    Args:
        predictor: the model.
        source: a GeoTIFF, or a raster of another ending in ``predict.DRIVERS``.
        out: folder of the maps.
        tile: side of a tile in pixels.
        threshold: probability from which a label is said, where a tile has several.
        watch: is given the rows of tiles and their number, and passes them on.

    Raises:
        DataError: the scene can't be read, or is not as the model wants it.
        StoreError: the maps can't be written.
    """
    card = predictor.card
    of_classes, of_probabilities = paths(source, out)
    counts: Counter[str] = Counter()
    seen = left_out = 0
    with scene_of(source, card, tile) as (scene, header):
        grid = _grid(scene, tile)
        with (
            writing(of_classes, _class_profile(card, grid)) as classes,
            writing(of_probabilities, _probability_profile(card, grid)) as probabilities,
        ):
            _name(classes, probabilities, card)
            for row in watch(range(grid["height"]), grid["height"]):
                with reading(source, row * tile):
                    found = _row(predictor, source, scene, header, row, tile)
                labels = _labels(found, card, threshold)
                window = ((row, row + 1), (0, grid["width"]))
                probabilities.write(found[:, None], window=window)
                classes.write(labels[:, None], window=window)
                known = ~np.isnan(found[0])
                seen, left_out = seen + int(known.sum()), left_out + int((~known).sum())
                counts.update(_counted(labels[:, known], card))
        georeferenced = scene.crs is not None
    return SceneMap(
        classes=of_classes,
        probabilities=of_probabilities,
        tiles=seen,
        left_out=left_out,
        counts={name: counts[name] for name in card.class_names if counts[name]},
        georeferenced=georeferenced,
    )


@contextmanager
def scene_of(source: Path, card: Card, tile: int) -> Iterator[tuple[Any, Header]]:
    """Open a scene that a model can read.

    Raises:
        DataError: it does not open, or is not as the model wants it.
    """
    with warnings.catch_warnings():
        # Rasterio's; the result says so.
        warnings.filterwarnings("ignore", message="Dataset has no geotransform")
        with opened(str(source), source) as scene:
            header = _images.header_of(str(source), scene)
            check(str(source), header, card, tile)
            yield scene, header


@contextmanager
def reading(source: Path, line: int) -> Iterator[None]:
    """Say where a scene is damaged."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        raise DataError(f"{source} is damaged at line {line} ({error}); fetch it again") from error


def _grid(scene: Any, tile: int) -> dict[str, Any]:
    from rasterio import Affine

    corner = scene.transform
    return {
        "height": math.ceil(scene.height / tile),
        "width": math.ceil(scene.width / tile),
        "crs": scene.crs,
        "transform": Affine(
            corner.a * tile, corner.b * tile, corner.c, corner.d * tile, corner.e * tile, corner.f
        ),
    }


def _class_profile(card: Card, grid: Mapping[str, Any]) -> dict[str, Any]:
    single = card.label_kind == "single"
    wide = single and len(card.class_names) > 255
    return {
        **grid,
        "count": 1 if single else len(card.class_names),
        "dtype": "uint16" if wide else "uint8",
        "nodata": 65535 if wide else 255,
    }


def _probability_profile(card: Card, grid: Mapping[str, Any]) -> dict[str, Any]:
    return {**grid, "count": len(card.class_names), "dtype": "float32", "nodata": math.nan}


def _name(classes: Any, probabilities: Any, card: Card) -> None:
    probabilities.descriptions = card.class_names
    if card.label_kind == "multi":
        classes.descriptions = card.class_names
    else:
        classes.update_tags(**{f"CLASS_{n}": name for n, name in enumerate(card.class_names)})


def _row(
    predictor: Predictor, source: Path, scene: Any, header: Header, row: int, tile: int
) -> NDArray[np.float32]:
    """Predict a row of tiles; float32 (classes, columns), NaN where a tile is left out."""
    columns = math.ceil(scene.width / tile)
    found = np.full((len(predictor.card.class_names), columns), np.nan, np.float32)
    top = min(row * tile, scene.height - tile)
    at_once = predictor.batch_size * predictor.workers
    wanted = target(predictor.card)
    for first in range(0, columns, at_once):
        places, images = [], []
        for column in range(first, min(first + at_once, columns)):
            left = min(column * tile, scene.width - tile)
            window = ((top, top + tile), (left, left + tile))
            raster = _images.raster_of(scene, header, window)
            if _whole(raster, _units.bands_of(str(source), header, wanted)):
                shown = f"{source}, line {top}, column {left}"
                places.append(column)
                images.append(_units.converted(shown, raster, wanted))
        if images:
            found[:, places] = predictor(np.stack(images)).T
    return found


def _whole(raster: Raster, places: list[int]) -> bool:
    """Whether all pixels of a tile are there: a pixel is missing where all of its bands are."""
    if unseen(raster, places).any():
        return False
    return raster.missing is None or not bool(raster.missing[places].all(axis=(1, 2)).any())


def _labels(found: NDArray[np.float32], card: Card, threshold: float) -> NDArray[np.integer]:
    """Say labels, (1 or classes, columns); the profile's nodata where a tile is left out."""
    unknown = np.isnan(found[0])
    profile = _class_profile(card, {})
    if card.label_kind == "single":
        labels = np.nan_to_num(found, nan=0.0).argmax(0, keepdims=True)
    else:
        labels = found >= threshold
    said: NDArray[np.integer] = np.where(unknown, profile["nodata"], labels)
    return said.astype(profile["dtype"])


def _counted(labels: NDArray[np.integer], card: Card) -> Counter[str]:
    if card.label_kind == "single":
        return Counter(card.class_names[label] for label in labels[0].tolist())
    return Counter(dict(zip(card.class_names, labels.sum(1).tolist(), strict=True)))


@contextmanager
def writing(path: Path, profile: Mapping[str, Any]) -> Iterator[Any]:
    """Open a map that takes its place only when it is whole."""
    import rasterio
    from rasterio.errors import RasterioError

    beside = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with rasterio.open(
                beside, "w", driver="GTiff", compress="deflate", bigtiff="if_safer", **profile
            ) as file:
                yield file
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, RasterioError) as error:
        if isinstance(error, FedXError):
            raise
        raise StoreError(f"can't write {path}: {error}; choose another folder") from error
