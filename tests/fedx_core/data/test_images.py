"""Image files of all kinds, as they are stored and as sets hold them."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image as pillow

from fedx_core.base import limits
from fedx_core.base.errors import DataError
from fedx_core.data import _band_names
from fedx_core.data._files import decode
from fedx_core.data._images import read
from fedx_core.data._units import INT16, Target, converted, stored_as
from fedx_core.data.folder import DataSet
from fedx_core.images import set_folder

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
RANDOM = np.random.default_rng(5)


def tiff(
    pixels: NDArray[Any],
    names: tuple[str, ...] = (),
    scale: float = 1.0,
    offset: float = 0.0,
    **profile: Any,
) -> bytes:
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=len(pixels), height=pixels.shape[1], width=pixels.shape[2],
            dtype=pixels.dtype.name, transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile,
        ) as file:  # fmt: skip
            file.write(pixels)
            if names:
                file.descriptions = names
            if (scale, offset) != (1.0, 0.0):
                file.scales, file.offsets = (scale,) * len(pixels), (offset,) * len(pixels)
        return bytes(memory.read())


def saved(image: pillow.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(pixels: NDArray[np.uint16]) -> bytes:
    """Write a PNG of 16 bits by its specification; Pillow has none of several bands."""
    bands, height, width = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.transpose(1, 2, 0))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def whole(*shape: int, low: int = 300, high: int = 900) -> NDArray[np.uint16]:
    return RANDOM.integers(low, high, shape).astype(np.uint16)


def target(bands: tuple[str, ...], scale: float = 10_000.0, *between: float) -> Target:
    return Target(
        bands=bands, scale=scale, value_range=between, stored=stored_as(scale, between),
        who="the model reads",
    )  # fmt: skip


RGB = ("B04", "B03", "B02")
DATES = ("B04 after", "B04 before", "B03 after", "B03 before")


@pytest.mark.parametrize("bands", [1, 3])
def test_sixteen_bits_of_a_png_stay(bands: int) -> None:
    pixels = RANDOM.integers(0, 65_536, (bands, 5, 7)).astype(np.uint16)
    assert np.array_equal(decode("a.png", png16(pixels)), pixels)
    with pytest.raises(DataError, match=r"a.png does not decode"):
        decode("a.png", png16(pixels)[:-40])


@pytest.mark.parametrize("bands", [2, 4])
def test_an_opaque_mask_of_a_png_is_left_out_and_one_that_is_no_mask_refused(bands: int) -> None:
    pixels = RANDOM.integers(0, 65_536, (bands, 4, 4)).astype(np.uint16)
    names = RGB[: bands - 1]
    pixels[-1] = 65_535
    assert np.array_equal(
        converted("a.png", read("a.png", png16(pixels)), target(names)), pixels[:-1]
    )
    pixels[-1, 0, 0] = 70
    with pytest.raises(DataError, match="an alpha band that is no mask"):
        converted("a.png", read("a.png", png16(pixels)), target(names))
    four = target((*names, "B08"))
    assert np.array_equal(converted("a.png", read("a.png", png16(pixels)), four), pixels)


def test_pictures_of_other_kinds_follow_one_rule() -> None:
    bits = pillow.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    for kind, name in (("PNG", "a.png"), ("TIFF", "a.tif")):
        assert decode(name, saved(bits, kind)).tolist() == [[[0, 255], [255, 0]]]
    picture = pillow.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).convert(
        "P", palette=pillow.Palette.ADAPTIVE
    )
    colours = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    for kind, name in (("PNG", "a.png"), ("TIFF", "a.tif")):
        assert np.array_equal(decode(name, saved(picture, kind)), colours)
    ink = pillow.new("CMYK", (4, 4))
    for kind, name in (("JPEG", "a.jpg"), ("TIFF", "a.tif")):
        with pytest.raises(DataError, match=r"has CMYK pixels, wanted grey"):
            decode(name, saved(ink, kind))


def test_pixels_stay_where_they_are_stored_whatever_exif_says() -> None:
    picture = pillow.fromarray(RANDOM.integers(0, 255, (4, 6), dtype=np.uint8))
    turned = pillow.Exif()
    turned[274] = 6
    assert np.array_equal(
        decode("a.png", saved(picture, "PNG", exif=turned)), decode("a.png", saved(picture, "PNG"))
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (saved(pillow.new("RGB", (4, 4)), "GIF"), "a GIF image"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"<VRTDataset rasterXSize='4' rasterYSize='4'></VRTDataset>", "an XML file"),
        (b"", "an empty file"),
    ],
)
def test_a_file_of_another_format_is_named_and_never_opened_as_such(
    name: str, payload: bytes, said: str
) -> None:
    with pytest.raises(DataError, match=rf"{name} does not decode \(it is {said}") as caught:
        decode(name, payload)
    assert " at 0x" not in str(caught.value)


def test_images_that_would_fill_the_memory_are_refused_by_their_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sparse = tiff(np.zeros((1, 8, 8), np.uint8))
    many = tiff(np.zeros((limits.BANDS + 1, 1, 1), np.uint8))
    with pytest.raises(DataError, match=r"1025 bands, allowed are 1024"):
        decode("a.tif", many)
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=1, height=30_000, width=30_000, dtype="uint8", SPARSE_OK=True,
            tiled=True, blockxsize=8192, blockysize=8192,
        ):  # fmt: skip
            pass
        sparse = bytes(memory.read())
    assert len(sparse) < 2000
    with pytest.raises(DataError, match=r"a.tif has 30000 x 30000 pixels and 1 bands, 858 MiB"):
        decode("a.tif", sparse)
    monkeypatch.setattr(limits, "DECODE_SECONDS", -1.0)
    with pytest.raises(DataError, match="to decode, allowed are"):
        decode("a.png", saved(pillow.new("L", (4, 4)), "PNG"))


def test_pages_of_a_tiff_are_not_left_out_in_silence() -> None:
    page = pillow.new("L", (4, 4))
    with pytest.raises(DataError, match="has 2 pages"):
        decode("a.tif", saved(page, "TIFF", save_all=True, append_images=[page]))


def test_sentinel_2_from_before_and_after_its_offset_is_one() -> None:
    old = whole(3, 8, 8)
    new = (old + 1000).astype(np.uint16)
    wanted = converted("old.tif", read("old.tif", tiff(old)), target(RGB))
    assert np.array_equal(wanted, old)
    for payload in (tiff(new, scale=1e-4, offset=-0.1), tiff(new, offset=-1000.0)):
        assert np.array_equal(converted("new.tif", read("new.tif", payload), target(RGB)), old)
    # Below zero there was nothing before, either.
    new[:, 0, 0] = 900
    found = converted("n.tif", read("n.tif", tiff(new, scale=1e-4, offset=-0.1)), target(RGB))
    assert found[:, 0, 0].tolist() == [0, 0, 0]
    new[:, :4] = 0
    with pytest.raises(DataError, match=r"50 % of its values outside 0 to 6.5535"):
        converted("n.tif", read("n.tif", tiff(new, scale=1e-4, offset=-0.1)), target(RGB))


def test_a_set_of_both_baselines_is_prepared_as_one(tmp_path: Path) -> None:
    for first in ("old", "new"):
        stored: dict[bytes, int] = {}
        for label, name in enumerate("ab"):
            (tmp_path / first / name).mkdir(parents=True)
            for number in range(6):
                old = np.random.default_rng(10 * label + number).integers(300, 900, (3, 8, 8))
                old = old.astype(np.uint16)
                stored[old.tobytes()] = label
                declares = (number % 2 == 0) == (first == "new")
                payload = (
                    tiff((old + 1000).astype(np.uint16), scale=1e-4, offset=-0.1)
                    if declares
                    else tiff(old)
                )
                (tmp_path / first / name / f"{number}.tif").write_bytes(payload)
        data_set = DataSet(source=str(tmp_path / first))
        source = data_set.open()
        assert (source.description.scale, source.description.value_range) == (10_000, ())
        set_folder.write(
            tmp_path / f"set-{first}", source.description, data_set.streams(source), {}
        )
        parts = set_folder.read(tmp_path / f"set-{first}").parts.values()
        found = {
            image.tobytes(): int(label)
            for part in parts
            for image, label in zip(part.images, part.labels, strict=True)
        }
        assert found == stored


def test_radar_in_decibels_with_gaps_keeps_its_values(tmp_path: Path) -> None:
    values: dict[str, NDArray[np.float32]] = {}
    for label, name in enumerate("ab"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(6):
            random = np.random.default_rng(10 * label + number)
            image = random.normal(-12 - 4 * label, 3, (2, 8, 8)).astype(np.float32)
            image[:, 0, :3] = (np.nan, -np.inf, -9999)
            values[f"{name}/{number}.tif"] = image
            payload = tiff(image, ("VV", "VH"), nodata=-9999)
            (tmp_path / "mine" / name / f"{number}.tif").write_bytes(payload)
    data_set = DataSet(source=str(tmp_path / "mine"))
    source = data_set.open()
    about = source.description
    assert about.bands == ("VV", "VH")
    low, high = about.value_range
    assert low == -high
    assert about.pixel_dtype == np.uint16
    for split in source.splits.values():
        for image in split.read(np.arange(len(split))):
            back = low + (high - low) * image / about.scale
            near = min(values.values(), key=lambda v, b=back: float(np.abs(v - b)[:, 1:].max()))
            assert np.abs(near - back)[:, 1:].max() <= (high - low) / about.scale
            present = near[:, 1:].reshape(2, -1), near[:, 0, 3:]
            mean = np.concatenate(present, axis=1).mean(1)
            assert back[:, 0, :3] == pytest.approx(np.repeat(mean[:, None], 3, 1), abs=0.01)
    set_folder.write(tmp_path / "set", about, data_set.streams(source), {})
    assert set_folder.read(tmp_path / "set").description == about


def test_int16_is_exact_and_another_kind_of_pixels_is_refused() -> None:
    image = RANDOM.integers(-3000, 3000, (1, 8, 8)).astype(np.int16)
    image[0, 0, 0] = -32_768
    wanted = target(("VV",), 65_536.0, *INT16)
    found = converted("a.tif", read("a.tif", tiff(image, nodata=-32_768)), wanted)
    assert np.array_equal(found.astype(int)[0, 1:] - 32_768, image[0, 1:])
    with pytest.raises(DataError, match="has float32 pixels, the model reads int16"):
        converted("a.tif", read("a.tif", tiff(image.astype(np.float32))), wanted)
    with pytest.raises(DataError, match="has int16 pixels, the model reads uint16 in which 10000"):
        converted("a.tif", read("a.tif", tiff(image)), target(("VV",)))


def test_power_that_16_bits_would_flatten_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            image = np.stack([RANDOM.random((8, 8)) * 1e-3, RANDOM.random((8, 8)) * 5000])
            (tmp_path / name / f"{number}.tif").write_bytes(tiff(image.astype(np.float32)))
    with pytest.raises(DataError, match=r"keep too little in band 1 .*such as dB"):
        DataSet(source=str(tmp_path)).open()


def test_nodata_is_left_out_of_means_and_refused_where_it_is_most() -> None:
    pixels = whole(3, 8, 8)
    pixels[:, :2] = 65_535
    found = converted("a.tif", read("a.tif", tiff(pixels, nodata=65_535)), target(RGB))
    assert np.array_equal(found[:, 2:], pixels[:, 2:])
    assert found.mean(axis=(1, 2)) == pytest.approx(pixels[:, 2:].mean(axis=(1, 2)), abs=0.5)
    pixels[:, :6] = 65_535
    with pytest.raises(DataError, match=r"a.tif is nodata for 75 % of its pixels"):
        converted("a.tif", read("a.tif", tiff(pixels, nodata=65_535)), target(RGB))
    # Zero in some bands is a value: water is dark.
    dark = whole(3, 8, 8)
    dark[0] = 0
    assert np.array_equal(
        converted("d.tif", read("d.tif", tiff(dark, nodata=0)), target(RGB)), dark
    )


def test_alpha_that_the_model_reads_is_no_mask() -> None:
    pixels = RANDOM.integers(0, 255, (4, 8, 8)).astype(np.uint8)
    raster = read("a.tif", tiff(pixels))
    assert raster.header.alpha
    four = target(("R", "G", "B", "N"), 255.0)
    assert np.array_equal(converted("a.tif", raster, four), pixels)
    with pytest.raises(DataError, match="no mask"):
        converted("a.tif", raster, target(("R", "G", "B"), 255.0))
    pixels[3] = 255
    pixels[3, 0] = 0
    found = converted("a.tif", read("a.tif", tiff(pixels)), target(("R", "G", "B"), 255.0))
    assert np.array_equal(found[:, 1:], pixels[:3, 1:])


@pytest.mark.parametrize(
    ("found", "wanted", "places"),
    [
        (("B02", "B03", "B04"), RGB, [2, 1, 0]),
        (("B2", "B3", "B4", "B8A"), RGB, [2, 1, 0]),
        (("blue", "green", "red", "nir"), (*RGB, "B08"), [2, 1, 0, 3]),
        (("B4, central wavelength 665 nm", "SR_B3", "Band 2"), RGB, [0, 1, 2]),
        (("B8A", "B08"), ("B08", "B8A"), [1, 0]),
        (("VH", "VV"), ("vv", "vh"), [1, 0]),
        (("B04 before", "B03 before", "B04 after", "B03 after"), DATES, [2, 0, 3, 1]),
        (("B04_before", "B03_before", "B04_after", "B03_after"), DATES, [2, 0, 3, 1]),
        (("B04 before", "B03", "B04 after"), ("b3", "B04 after"), [1, 2]),
        (("Band 1", "Band 2", "Band 3"), RGB, None),
        (("", "", ""), RGB, None),
        (("B08", "B03", "B02"), ("band-1", "band-2", "band-3"), None),
    ],
)
def test_bands_are_found_by_name(
    found: tuple[str, ...], wanted: tuple[str, ...], places: list[int] | None
) -> None:
    assert _band_names.order("a.tif", found, wanted, "the model reads") == places


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (("B08", "B03", "B02"), "B04 is missing"),
        (("B8A", "B03", "B02"), "B04 is missing"),
        (("VV", "VH", "angle"), "B04, B03, B02 are missing"),
        (("red", "B04", "B03"), "a.tif has 2 bands B04"),
        (("B04 before", "B04 after", "B03", "B02"), "2 bands B04; name each .*'B04 before'"),
    ],
)
def test_bands_that_are_others_are_named(found: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        _band_names.order("a.tif", found, RGB, "the model reads")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (("B04", "B03"), "B04 after, B04 before, B03 after, B03 before are missing"),
        (("B04 before", "B03 before"), "B04 after, B03 after are missing"),
        ((*DATES, "B04_before"), "a.tif has 2 bands B04 before"),
    ],
)
def test_one_date_is_not_taken_for_two(found: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        _band_names.order("a.tif", found, DATES, "the model reads")


def test_a_folder_takes_bands_by_name_and_puts_them_in_order(tmp_path: Path) -> None:
    pixels = whole(3, 8, 8)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            order = (0, 1, 2) if number % 2 else (2, 1, 0)
            payload = tiff(pixels[list(order)], tuple(("B02", "B03", "B04")[n] for n in order))
            (tmp_path / name / f"{number}.tif").write_bytes(payload)
    source = DataSet(source=str(tmp_path)).open()
    assert source.description.bands == ("B04", "B03", "B02")
    for split in source.splits.values():
        for image in split.read(np.arange(len(split))):
            assert np.array_equal(image, pixels[::-1])
    chosen = DataSet(source=str(tmp_path), band_names=("red", "blue")).open().splits["test"]
    assert np.array_equal(next(chosen.read(np.array([0]))), pixels[[2, 0]])
