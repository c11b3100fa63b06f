"""Image files decoded: pixels as they are stored, and what the file says of them.

A file is opened as what its name says it is, and as nothing else. Then, for all formats:

- Pixels keep their bits: 8, 16, or fractions. Fewer than 8 bits are stretched to 0 to 255.
- A palette becomes its colours: red, green and blue.
- Grey stays one band; ink (CMYK) and CIELAB are refused.
- Alpha of a PNG is a mask, where 0 is nodata. Alpha of a TIFF is a band like others, since GDAL
  marks the fourth of any four bands of 8 bits so; where one band fewer is wanted, it is a mask.
- Pixels stay in the order in which they are stored; EXIF's orientation turns nothing.
"""

import io
import re
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import limits
from fedx_core.base.errors import DataError
from fedx_core.data import _magic
from fedx_core.images.examples import Image
from fedx_core.images.strata import IGNORED

TIFF = (".tif", ".tiff")
IMAGES = (".jpg", ".jpeg", ".png", *TIFF)
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError, KeyError, TypeError,
    struct.error, zlib.error,
)  # fmt: skip
"""What decoders raise at damaged files."""
DTYPES = ("uint8", "uint16", "int16", "float32", "float64")

Alpha = Literal["", "mask", "band or mask"]
Window = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its pixels.

    Args:
        dtype: of the pixels.
        bands: in the file, alpha among them.
        height: in pixels.
        width: in pixels.
        names: of the bands; empty texts where they have none.
        scales: value = stored x scale + offset, a band; 1 where nothing is declared.
        offsets: 0 where nothing is declared.
        alpha: what the last band is, if it is marked as alpha.
    """

    dtype: str
    bands: int
    height: int
    width: int
    names: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    alpha: Alpha = ""

    @property
    def declares(self) -> bool:
        """Whether the file says how values follow from what it stores."""
        return set(self.scales) != {1.0} or set(self.offsets) != {0.0}

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the bands but a mask."""
        return self.names[:-1] if self.alpha == "mask" else self.names


@dataclass(frozen=True)
class Raster:
    """An image as it is stored.

    Args:
        header: of its file.
        pixels: (bands, height, width), of the header's dtype.
        missing: bool of the same shape, True where there is no value: nodata, masked, or no number.
            Whole numbers are missing where all bands are, since 0 often is a value as well.
    """

    header: Header
    pixels: NDArray[Any]
    missing: NDArray[np.bool_] | None


def decode(name: str, payload: bytes) -> Image:
    """Decode a JPEG, PNG or TIFF file to what it stores; a mask is left out.

    Args:
        name: of the file; its ending says how it is read.
        payload: the file's bytes.

    Returns:
        uint8, uint16, int16 or float32 (bands, height, width).

    Raises:
        DataError: it does not decode, or can't be used.
    """
    found = read(name, payload)
    return found.pixels[:-1] if found.header.alpha == "mask" else found.pixels


def read(name: str, payload: bytes) -> Raster:
    """Decode a JPEG, PNG or TIFF file with all that it says of its pixels.

    Args:
        name: of the file; its ending says how it is read.
        payload: the file's bytes.

    Raises:
        DataError: it does not decode, is larger than the limits allow, or has pixels that are
            neither 8- or 16-bit whole numbers nor fractions.
    """
    begun = time.thread_time()
    ending = name.lower().rpartition(".")[2]
    kind = "a PNG image" if ending == "png" else "a JPEG image"
    kind = "a TIFF image" if f".{ending}" in TIFF else kind
    with _said(name, kind, payload):
        found = _tiff(name, payload) if kind == "a TIFF image" else _pillow(name, payload, kind)
    taken = time.thread_time() - begun
    if taken > limits.DECODE_SECONDS:
        raise DataError(
            f"{name} takes {taken:.0f} s to decode, allowed are {limits.DECODE_SECONDS:g}; save it "
            "anew, without layers and passes"
        )
    return found


def classes_of(name: str, payload: bytes) -> NDArray[np.uint8]:
    """Decode a mask, whose values are classes: a palette's numbers and not its colours.

    Args:
        name: of the file, a PNG or TIFF; its ending says how it is read.
        payload: the file's bytes.

    Returns:
        uint8 (height, width); what a TIFF calls nodata is ``strata.IGNORED``.

    Raises:
        DataError: it does not decode, or has several bands, or values that are no bytes.
    """
    tiff = name.lower().endswith(TIFF)
    kind = "a TIFF image" if tiff else "a PNG image"
    with _said(name, kind, payload):
        found = _tiff_classes(name, payload) if tiff else _png_classes(name, payload)
    if found.ndim != 2 or found.dtype.kind not in "bui":
        shape = "one" if found.ndim == 2 else str(found.shape[-1])
        raise DataError(
            f"{name} has {shape} band(s) of {found.dtype}, and a mask one of whole numbers, the "
            "classes; save it as a grey image of 8 bits, or with a palette"
        )
    if found.min(initial=0) < 0 or found.max(initial=0) > IGNORED:
        raise DataError(
            f"{name} holds values from {found.min()} to {found.max()}, and those of a mask are 0 "
            f"to {IGNORED}; number the classes from 0"
        )
    return found.astype(np.uint8)


def _tiff_classes(name: str, payload: bytes) -> NDArray[Any]:
    import rasterio

    with rasterio.MemoryFile(payload) as memory, memory.open(driver="GTiff") as file:
        header = header_of(name, file)
        check_size(name, header)
        found: NDArray[Any] = file.read()
        if file.nodata is not None and header.dtype.startswith(("uint", "int")):
            found[found == file.nodata] = IGNORED
    return found[0] if len(found) == 1 else found.transpose(1, 2, 0)


def _png_classes(name: str, payload: bytes) -> NDArray[Any]:
    from PIL import Image as pillow

    with pillow.open(io.BytesIO(payload), formats=("PNG",)) as file:
        check_size(name, _plain("uint16", 4, file.height, file.width))
        return np.asarray(file)


def header_of(name: str, file: Any) -> Header:
    """Read what an open rasterio file says of its pixels.

    Raises:
        DataError: it has more bands than the limits allow, mixed bands, or pixels of another kind.
    """
    bands = file.count
    # First, since all else takes its time for each band.
    if bands > limits.BANDS:
        raise DataError(f"{name} has {bands} bands, allowed are {limits.BANDS}; take some of them")
    dtypes = set(file.dtypes)
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    if dtype not in DTYPES:
        raise DataError(
            f"{name} has {dtype} pixels, wanted uint8, uint16, int16 or float32 in all bands; "
            "convert it"
        )
    if len(file.subdatasets) > 1:
        raise DataError(
            f"{name} has {len(file.subdatasets)} pages, of which only the first would be read; "
            "stack them as bands, or save one page a file"
        )
    space = file.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE", "")
    if space in ("CMYK", "CIELAB"):
        raise DataError(f"{name} has {space} pixels, wanted grey, RGB or bands; convert it")
    names = tuple(text or "" for text in file.descriptions)
    marked = bands > 1 and file.colorinterp[-1].name == "alpha"
    header = Header(
        dtype=dtype,
        bands=bands,
        height=file.height,
        width=file.width,
        names=names,
        scales=tuple(map(float, file.scales)),
        offsets=tuple(map(float, file.offsets)),
        # What has a name is a band, however it is marked.
        alpha="band or mask" if marked and names[-1].lower() in ("", "alpha") else "",
    )
    if not np.isfinite([*header.scales, *header.offsets]).all() or 0.0 in header.scales:
        raise DataError(f"{name} declares a scale or an offset that is no number; correct it")
    return header


def raster_of(file: Any, header: Header, window: Window | None = None) -> Raster:
    """Read an open rasterio file, or a window of it; palettes become colours."""
    stored = file.read(window=window)
    missing = _missing(file, header, stored, window)
    colours = file.colorinterp[0].name == "palette"
    bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8)) if header.dtype == "uint8" else 8
    if not (colours or bits < 8):
        return Raster(header, stored, missing)
    if colours:
        table = np.zeros((256 if header.dtype == "uint8" else 65536, 3), np.uint8)
        for index, colour in file.colormap(1).items():
            table[index] = colour[:3]
        stored = np.ascontiguousarray(table[stored[0]].transpose(2, 0, 1))
        if bits == 1 and (table == table[:, :1]).all():
            stored = stored[:1]
    else:
        stored = stored * np.uint8(255 // (2**bits - 1))
    if missing is not None:
        missing = np.broadcast_to(missing[:1], stored.shape)
    count = len(stored)
    plain = Header(
        dtype="uint8", bands=count, height=header.height, width=header.width,
        names=("",) * count, scales=(1.0,) * count, offsets=(0.0,) * count,
    )  # fmt: skip
    return Raster(plain, stored, missing)


def _missing(
    file: Any, header: Header, stored: NDArray[Any], window: Window | None
) -> NDArray[np.bool_] | None:
    whole = header.dtype.startswith("uint")
    missing = np.zeros(stored.shape, bool)
    for band, nodata in enumerate(file.nodatavals):
        if nodata is not None and not np.isnan(nodata):
            missing[band] = stored[band] == nodata
    if whole:
        missing[:] = missing.all(0)
    elif header.dtype.startswith("float"):
        missing |= ~np.isfinite(stored)
    flags = {flag.name for flag in file.mask_flag_enums[0]}
    if "per_dataset" in flags and "alpha" not in flags:
        missing |= file.read_masks(1, window=window) == 0
    return missing if missing.any() else None


def check_size(name: str, header: Header) -> None:
    """Refuse an image that is too large to be decoded as a whole.

    Raises:
        DataError: says its size and the limits.
    """
    pixels = header.height * header.width
    size = pixels * header.bands * np.dtype(header.dtype).itemsize
    if pixels > limits.IMAGE_PIXELS or size > limits.IMAGE_BYTES:
        raise DataError(
            f"{name} has {header.width} x {header.height} pixels and {header.bands} bands, "
            f"{size >> 20} MiB; an image may have {limits.IMAGE_PIXELS >> 20} million pixels and "
            f"{limits.IMAGE_BYTES >> 20} MiB. Cut it into tiles, or map it as a GeoTIFF with "
            "`fedx predict --tile`"
        )


def _tiff(name: str, payload: bytes) -> Raster:
    import rasterio

    if not payload:
        raise ValueError("the file is empty")
    # Named, since GDAL fills a cut-off PNG with zeros and says nothing.
    with rasterio.MemoryFile(payload) as memory, memory.open(driver="GTiff") as file:
        header = header_of(name, file)
        check_size(name, header)
        return raster_of(file, header)


def _pillow(name: str, payload: bytes, kind: str) -> Raster:
    from PIL import Image as pillow

    with pillow.open(io.BytesIO(payload), formats=(kind.split()[1],)) as file:
        check_size(name, _plain("uint16", 4, file.height, file.width))
        mode = file.mode
        if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B"):
            raise DataError(f"{name} has {mode} pixels, wanted grey or RGB; convert it")
        if mode == "P" or mode == "PA":
            clear = mode == "PA" or "transparency" in file.info
            pixels = np.asarray(file.convert("RGBA" if clear else "RGB"))
        elif mode == "1":
            pixels = np.asarray(file.convert("L"))
        else:
            pixels = np.asarray(file)
    if kind == "a PNG image" and payload[24] == 16 and pixels.ndim == 3:
        return _with_alpha(_sixteen_bits(payload))
    # In the order in which it is stored; many threads do this, one writes.
    pixels = pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return _with_alpha(pixels)


def _sixteen_bits(payload: bytes) -> NDArray[Any]:
    """Decode a PNG of several bands, of which Pillow leaves 8 bits, once Pillow found it whole."""
    import rasterio

    with rasterio.MemoryFile(payload) as memory, memory.open(driver="PNG") as file:
        pixels: NDArray[Any] = file.read()
        return pixels


def _with_alpha(pixels: NDArray[Any]) -> Raster:
    header = _plain(pixels.dtype.name, *pixels.shape)
    if len(pixels) not in (2, 4):
        return Raster(header, pixels, None)
    return Raster(Header(**(vars(header) | {"alpha": "mask"})), pixels, None)


def _plain(dtype: str, bands: int, height: int, width: int) -> Header:
    return Header(
        dtype=dtype, bands=bands, height=height, width=width,
        names=("",) * bands, scales=(1.0,) * bands, offsets=(0.0,) * bands,
    )  # fmt: skip


@contextmanager
def _said(name: str, kind: str, payload: bytes) -> Iterator[None]:
    """Turn what decoders raise into an error that says what the file is."""
    from PIL import Image as pillow
    from rasterio.errors import RasterioError

    try:
        yield
    except DataError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        size = re.search(r"\d+ pixels", str(error))
        raise DataError(
            f"{name} has {size[0] if size else 'too many pixels'}; an image may have "
            f"{limits.IMAGE_PIXELS >> 20} million. Cut it into tiles, or map it as a GeoTIFF with "
            "`fedx predict --tile`"
        ) from error
    except (*DAMAGE, RasterioError) as error:
        found = _magic.kind(payload[:512])
        if found and found != kind:
            raise DataError(
                f"{name} does not decode (it is {found}, and its name says {kind}); replace the "
                "file, or give it the ending of what it is"
            ) from error
        raise DataError(
            f"{name} does not decode ({_plainly(error)}); replace the file or take it out of the "
            "data set"
        ) from error


def _plainly(error: BaseException) -> str:
    """Say what went wrong, without places in memory."""
    if "cannot identify" in str(error):
        return "it is no image of that format"
    text = re.sub(r"'?(/vsimem/)?[0-9a-f-]{36}(/[0-9a-f-]{36})?\.\w+'?:?", "the file", str(error))
    return re.sub(r"<.* at 0x[0-9a-f]+>", "the file", text) or type(error).__name__
