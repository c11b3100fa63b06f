"""From what files store to what sets hold: bands by name, values in one unit, gaps filled.

A set holds whole numbers of 8 or 16 bits, and prediction brings images to the same numbers:

- *Whole numbers* without a declared scale are taken as they are; ``scale`` of them stand for 1.
- *A declared scale and offset* give values (stored x scale + offset), and ``scale`` pixels stand
  for a value of 1. Sentinel-2's offset since baseline 04.00 (January 2022) so goes away: what it
  stores as 1,500 with scale 1e-4 and offset -0.1 is 500 in the set, as it was before. An offset
  without a scale is added as it is.
- *Fractions and signed numbers* are brought to 16 bits over the set's ``value_range``. int16 fits
  exactly; fractions keep 16,384 steps or more over the values that some of the images have.

Values below or above what a set can hold become its least or largest. Missing values (nodata,
masked, NaN, infinite) become the mean of what the image has of the band, which leaves them out of
the set's means. An image is refused if more than ``LOST`` of it is out of range, or more than
``MISSING`` missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.data import _band_names
from fedx_core.data._images import Header, Raster
from fedx_core.images.examples import Image

LOST = 0.1
MISSING = 0.5
SCALE = 65_536.0
"""Pixels over a value range."""
INT16 = (-32_768.0, 32_768.0)
"""The value range in which int16 is exact."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What images are brought to.

    Args:
        bands: names in the order wanted; numbers of bands alone are no names.
        scale: of the set or the model, which decides on 8 or 16 bits.
        value_range: of the set or the model.
        stored: dtype of files that declare no scale.
        who: wants this, such as ``the model reads``.
    """

    bands: Sequence[str]
    scale: float
    value_range: tuple[float, ...]
    stored: str
    who: str

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of the pixels: 8 bits where ``scale`` fits in them, else 16."""
        return np.dtype(np.uint8 if self.scale <= 255 else np.uint16)


def stored_as(scale: float, value_range: tuple[float, ...]) -> str:
    """Say which dtype files have that declare no scale, for a set of this unit."""
    if value_range:
        return "int16" if value_range == INT16 else "float32"
    return "uint8" if scale <= 255 else "uint16"


def converted(name: str, raster: Raster, target: Target, allowed: float = MISSING) -> Image:
    """Bring an image to a target.

    Args:
        name: of the image, for errors.
        raster: as it is stored.
        target: bands and unit.
        allowed: share of its values that may be missing.

    Returns:
        uint8 or uint16 (bands, height, width), bands in the target's order.

    Raises:
        DataError: bands or unit differ, too much is missing, or too many values are out of range.
    """
    places = bands_of(name, raster.header, target)
    check_unit(name, raster.header, target)
    pixels, missing = raster.pixels[places], _gaps(name, raster, places, allowed)
    factors = linear(raster.header, target.scale, target.value_range)
    if factors is not None:
        factor, shift = (part[places][:, None, None] for part in factors)
        pixels = pixels.astype(np.float64) * factor + shift
        # What is missing counts for nothing, whatever stands for it.
        pixels = pixels if missing is None else np.where(missing, 0.0, pixels)
        pixels = _whole(name, pixels, target)
    return pixels if missing is None else _filled(name, pixels, missing, target)


def bands_of(name: str, header: Header, target: Target) -> list[int]:
    """Find the target's bands in a file: by name, or all in order where nobody names them.

    Raises:
        DataError: they are not there.
    """
    shown = header.shown
    wanted = len(target.bands)
    if (places := _band_names.order(name, shown, target.bands, target.who)) is not None:
        return places
    if wanted in (header.bands, header.bands - bool(header.alpha)):
        return list(range(wanted))
    if _band_names.named(target.bands):
        advice = f": {', '.join(target.bands)}; stack these, in this order"
    else:
        advice = "; convert or remove it"
    raise DataError(f"{name} has {len(shown)} bands, {target.who} {wanted}{advice}")


def check_unit(name: str, header: Header, target: Target) -> None:
    """Refuse pixels of which nobody says what they stand for.

    Raises:
        DataError: the file declares no scale, and its pixels are of another kind.
    """
    found = "float32" if header.dtype == "float64" else header.dtype
    if found == target.stored or header.declares:
        return
    unit = f" in which {target.scale:g} stands for 1" if not target.value_range else ""
    raise DataError(
        f"{name} has {header.dtype} pixels, {target.who} {target.stored}{unit}; convert the image, "
        "or declare its scale in the file"
    )


def linear(
    header: Header, scale: float, value_range: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Give factor and shift of each band from stored to a set's pixels; None leaves them as is."""
    declared, offsets = np.array(header.scales), np.array(header.offsets)
    if value_range:
        low, high = value_range
        step = (high - low) / scale
        return declared / step, (offsets - low) / step
    if not header.declares:
        return None
    unit = np.where(declared == 1.0, 1.0, scale)
    return declared * unit, offsets * unit


def _gaps(name: str, raster: Raster, places: list[int], allowed: float) -> NDArray[np.bool_] | None:
    """Find the missing values of the bands at these places.

    Raises:
        DataError: too many are missing, or the mask is none.
    """
    missing = raster.missing if raster.missing is None else raster.missing[places]
    header = raster.header
    if header.alpha and header.bands - 1 not in places:
        alpha = raster.pixels[-1]
        clear = alpha == 0
        if (~clear & (alpha != np.iinfo(alpha.dtype).max)).any():
            raise DataError(
                f"{name} has an alpha band that is no mask: its values lie between none and full. "
                f"If it is a band, name all {header.bands} bands; else take it out of the image"
            )
        if clear.any():
            missing = clear if missing is None else missing | clear
            missing = np.broadcast_to(missing, (len(places), *alpha.shape))
    if missing is None or not missing.any():
        return None
    share = float(missing.mean())
    if share > allowed or missing.all(axis=(1, 2)).any():
        raise DataError(
            f"{name} is nodata for {100 * share:.0f} % of its pixels; replace it or take it out"
        )
    return missing


def _whole(name: str, pixels: NDArray[np.float64], target: Target) -> Image:
    least, most = 0, np.iinfo(target.dtype).max
    pixels = pixels.round()
    lost = float(((pixels < least) | (pixels > most)).mean())
    if lost > LOST:
        low, high = target.value_range or (0.0, 1.0)
        top = low + (high - low) * most / target.scale
        raise DataError(
            f"{name} has {100 * lost:.0f} % of its values outside {low:g} to {top:g}, which "
            "is what the set's pixels stand for, by the scale and offset that it declares; "
            "declare nodata where there is none, or set value_range"
        )
    whole: Image = pixels.clip(least, most).astype(target.dtype)
    return whole


def _filled(name: str, pixels: Image, missing: NDArray[np.bool_], target: Target) -> Image:
    means = np.asarray(np.mean(pixels, axis=(1, 2), where=~missing, dtype=np.float64))
    filled: Image = np.where(missing, means.round()[:, None, None], pixels).astype(target.dtype)
    return filled


# What a set's unit is to be


def check_range(value_range: Sequence[float], scale: float) -> None:
    """Check what somebody has set.

    Raises:
        ConfigError: it is no range, or a scale is set too.
    """
    if not value_range:
        return
    if (
        len(value_range) != 2
        or not np.isfinite(value_range).all()
        or value_range[0] >= value_range[1]
    ):
        raise ConfigError(
            f"value_range must be [least, largest], got {list(value_range)}; such as [-50, 20] for "
            "radar in dB"
        )
    if scale:
        raise ConfigError("scale and value_range say the same in two ways; set one of them")


def unit_of(name: str, rasters: Sequence[Raster]) -> tuple[float, tuple[float, ...]]:
    """Choose scale and value range for a set, by some of its images.

    Args:
        name: of the first image, for errors.
        rasters: the first of all, and some others.

    Raises:
        DataError: the values are spread too unevenly for 16 bits.
    """
    first = rasters[0].header
    if not first.declares and first.dtype in ("uint8", "uint16"):
        return (255.0, ()) if first.dtype == "uint8" else (10_000.0, ())
    if not first.declares and first.dtype == "int16":
        return SCALE, INT16
    # Those that declare nothing are in the set's unit already, whatever it is.
    alike = [r for r in rasters if r.header.declares == first.declares]
    values = [_values(raster) for raster in alike]
    scale = float(f"{1 / max(map(abs, first.scales)):.6g}")
    if first.dtype.startswith(("int", "uint")) and scale > 255:
        fits = [(v >= 0) & (v * scale <= 65_535) for v in values]
        if all(share.mean() >= 1 - LOST for share in fits):
            return scale, ()
    least = min(float(v.min(initial=0.0)) for v in values)
    most = max(float(np.abs(v).max(initial=0.0)) for v in values)
    high = 2.0 ** (np.ceil(np.log2(most)) + 1) if most > 0 else 1.0
    return SCALE, (-high if least < 0 else 0.0, float(high))


def check_steps(name: str, rasters: Sequence[Raster], value_range: tuple[float, ...]) -> None:
    """Refuse a value range so wide that some band has few steps left.

    Args:
        name: of the first image, for errors.
        rasters: some of the images.
        value_range: of the set.

    Raises:
        DataError: 64 steps or fewer make up the deviation of a band.
    """
    step = (value_range[1] - value_range[0]) / SCALE
    for band in range(rasters[0].header.bands):
        some = [r for r in rasters if r.header.bands > band]
        values = np.concatenate([_values(raster, band) for raster in some])
        spread = float(values.std()) if values.size else 0.0
        if 0 < spread < 64 * step and np.unique(values).size > 64:
            raise DataError(
                f"{name} and other images have values of which 16 bits over {value_range[0]:g} to "
                f"{value_range[1]:g} keep too little in band {band + 1} (deviation {spread:.3g}); "
                "bring the bands to like units (such as dB instead of power), or set value_range"
            )


def _values(raster: Raster, band: int | None = None) -> NDArray[np.float64]:
    """Give all values that are there, of one band or of all, as a vector."""
    header, chosen = raster.header, slice(None) if band is None else slice(band, band + 1)
    scales, offsets = np.array(header.scales)[chosen], np.array(header.offsets)[chosen]
    values = raster.pixels[chosen] * scales[:, None, None] + offsets[:, None, None]
    found = values.ravel() if raster.missing is None else values[~raster.missing[chosen]]
    return np.asarray(found, np.float64)
