"""Maps with a class for each pixel: on the scene, without seams, a few tiles in memory."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio import Affine
from torch import Tensor, nn

from fedx_core.images.pixels import Pixels
from fedx_core.models import catalogue
from fedx_core.objectives import segmentation
from fedx_core.predict import pixel_classes
from fedx_core.predict.images import Predictor
from fedx_core.predict.model_file import Card
from fedx_core.predict.pixel_scenes import PixelMap, map_pixels, spans

NAMES = ("water", "wood", "town", "field")
PLACE = Affine(10, 0, 600_000, 0, -10, 4_200_000)
PIXELS = Pixels(
    scale=255.0, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3), input_size=None,
    memory_format="contiguous",
)  # fmt: skip


def card() -> Card:
    return Card(
        format=1, version="1", run="run", seed=1, round_index=1, dataset="covers", model="resnet6",
        bands=("red", "green", "blue"), class_names=NAMES, label_kind="pixels", image_size=32,
        pixels=PIXELS, units_kept={},
    )  # fmt: skip


def asked(model: nn.Module, workers: int = 1) -> Predictor:
    return Predictor(model=model.eval(), card=card(), device=torch.device("cpu"), workers=workers)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built = catalogue.build("resnet6", 3, len(NAMES), seed=3)
        return segmentation.Objective(width=8).build(built, "fc").eval()


class Near(nn.Module):
    """Sees seven pixels around each, so fewer than a quarter of a tile of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 7, padding=3)
        self.two = nn.Conv2d(8, len(NAMES), 9, padding=4)
        for number, weight in enumerate(self.parameters()):
            random = torch.Generator().manual_seed(number)
            weight.data = torch.randn(weight.shape, generator=random) / math.sqrt(weight[0].numel())
        self.largest = 0

    def forward(self, images: Tensor) -> Tensor:
        self.largest = max(self.largest, images[:, 0].numel())
        found: Tensor = self.two(self.one(images).relu())
        return found


def write(path: Path, pixels: NDArray[np.integer], **profile: Any) -> NDArray[np.integer]:
    values = {
        "crs": "EPSG:32629", "transform": PLACE, "count": len(pixels), "dtype": pixels.dtype,
        "height": pixels.shape[1], "width": pixels.shape[2],
    }  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", **(values | profile)) as file:
        file.write(pixels)
    return pixels


def drawn(height: int, width: int, seed: int = 1) -> NDArray[np.integer]:
    return np.random.default_rng(seed).integers(1, 256, (3, height, width), dtype=np.uint8)


def maps(found: PixelMap) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    with rasterio.open(found.classes) as one, rasterio.open(found.probabilities) as two:
        return one.read(1), two.read(1)


def slowly(model: nn.Module, image: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
    """Segment one image from the definitions, in float64, pixel by pixel."""
    planes = np.stack(
        [
            (plane / PIXELS.scale - mean) / std
            for plane, mean, std in zip(
                image.astype(np.float64), PIXELS.mean, PIXELS.std, strict=True
            )
        ]
    )
    with torch.no_grad():
        logits = model.double()(torch.from_numpy(planes)[None])[0]
    model.float()
    height, width = image.shape[1:]
    classes = torch.zeros(height, width, dtype=torch.uint8)
    surest = torch.zeros(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            powers = [math.exp(float(v)) for v in logits[:, row, column]]
            classes[row, column] = powers.index(max(powers))
            surest[row, column] = max(powers) / sum(powers)
    return classes, surest


def test_maps_lie_on_the_scene_pixel_by_pixel(tmp_path: Path) -> None:
    scene, model = write(tmp_path / "s.tif", drawn(32, 32)), network()
    found = map_pixels(asked(model), tmp_path / "s.tif", tmp_path / "maps", tile=32)
    for path in (found.classes, found.probabilities):
        with rasterio.open(path) as file:
            assert (file.crs, file.transform) == (rasterio.CRS.from_epsg(32629), PLACE)
            assert (file.shape, file.count, file.dtypes[0]) == ((32, 32), 1, "uint8")
            assert file.nodata == 255
    with rasterio.open(found.classes) as file:
        assert [file.tags()[f"CLASS_{n}"] for n in range(4)] == list(NAMES)
        table = file.colormap(1)
        assert len({table[n] for n in range(4)}) == 4
    with rasterio.open(found.probabilities) as file:
        assert file.scales == (0.01,)
    classes, percent = maps(found)
    expected, surest = slowly(model, scene)
    np.testing.assert_array_equal(classes, expected)
    assert np.abs(percent / 100 - surest.numpy()).max() <= 0.0051
    assert found.counts == {
        name: int((classes == n).sum()) for n, name in enumerate(NAMES) if (classes == n).any()
    }
    assert (found.pixels, found.left_out, found.georeferenced) == (32 * 32, 0, True)


def test_each_tile_says_what_is_nearest_to_its_middle(tmp_path: Path) -> None:
    scene, model = write(tmp_path / "s.tif", drawn(40, 70)), network()
    classes, _ = maps(map_pixels(asked(model, 2), tmp_path / "s.tif", tmp_path, tile=32))
    tops, lefts = [0, 8], [0, 16, 32, 38]
    said = {
        (top, left): slowly(model, scene[:, top : top + 32, left : left + 32])[0]
        for top in tops
        for left in lefts
    }
    for row in range(40):
        for column in range(70):
            # Of those as near, the later one.
            top = min(reversed(tops), key=lambda t: abs(row + 0.5 - t - 16))
            left = min(reversed(lefts), key=lambda t: abs(column + 0.5 - t - 16))
            assert classes[row, column] == said[top, left][row - top, column - left]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 150)])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_seam_is_seen_by_a_model_that_looks_less_than_a_quarter_tile_around(
    size: tuple[int, int], workers: int, tmp_path: Path
) -> None:
    scene, model = write(tmp_path / "s.tif", drawn(*size)), Near().eval()
    found = maps(map_pixels(asked(model, workers), tmp_path / "s.tif", tmp_path, tile=32))
    with torch.inference_mode():
        logits = model(PIXELS.to_input(scene[None], torch.device("cpu")))
    surest, classes = logits.softmax(1).max(1)
    np.testing.assert_array_equal(found[0], classes[0])
    assert np.abs(found[1] - 100 * surest[0].numpy()).max() < 0.501


@pytest.mark.parametrize("tile", [8, 9, 10, 11, 32])
def test_tiles_make_up_a_side_and_count_a_quarter_from_their_edges(tile: int) -> None:
    for length in range(tile, 5 * tile):
        found = spans(length, tile)
        assert [n for s in found for n in range(s.first, s.last)] == list(range(length))
        for span in found:
            assert 0 <= span.start <= length - tile
            assert span.first == 0 or span.first - span.start >= tile // 4
            assert span.last == length or span.start + tile - span.last >= tile // 4


def test_what_nobody_has_seen_stays_unknown_and_counts_for_nothing(tmp_path: Path) -> None:
    scene = drawn(64, 96)
    scene[:, :50, :40] = 0
    scene[:, 60, 90] = 0
    scene[0, 55:60, 50:60] = 0  # one band alone may be 0
    write(tmp_path / "s.tif", scene, nodata=0)
    found = map_pixels(asked(network()), tmp_path / "s.tif", tmp_path, tile=32)
    gone = (scene == 0).all(0)
    for values in maps(found):
        np.testing.assert_array_equal(values == 255, gone)
    assert (found.pixels, found.left_out) == (int((~gone).sum()), int(gone.sum()))
    assert sum(found.counts.values()) == found.pixels
    # A gap is filled with the mean of what its tile has, whatever stands for it.
    before, _ = maps(found)
    scene[:, gone] = 255
    shown = np.full(scene.shape[1:], 255, np.uint8)
    shown[gone] = 0
    with rasterio.open(
        tmp_path / "t.tif", "w", driver="GTiff", height=64, width=96, count=4, dtype="uint8",
        photometric="RGB", alpha="yes", crs="EPSG:32629", transform=PLACE,
    ) as file:  # fmt: skip
        file.write(np.concatenate([scene, shown[None]]))
    after, _ = maps(map_pixels(asked(network()), tmp_path / "t.tif", tmp_path, tile=32))
    np.testing.assert_array_equal(before, after)


def test_an_empty_scene_is_mapped_as_unknown(tmp_path: Path) -> None:
    write(tmp_path / "s.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    found = map_pixels(asked(network()), tmp_path / "s.tif", tmp_path, tile=32)
    assert all((values == 255).all() for values in maps(found))
    assert (found.pixels, found.counts) == (0, {})


def test_few_tiles_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s.tif", drawn(200, 300))
    model, held = Near(), []
    real = Predictor.logits

    def logits(self: Predictor, images: NDArray[np.integer], batch_size: int) -> Tensor:
        held.append(images[:, 0].size)
        return real(self, images, batch_size)

    monkeypatch.setattr(Predictor, "logits", logits)
    # Read where it is used.
    for place in ("pixel_classes", "pixel_scenes"):
        monkeypatch.setattr(f"fedx_core.predict.{place}.PIXELS", 3 * 32 * 32)
    few = maps(map_pixels(asked(model, 2), tmp_path / "s.tif", tmp_path, tile=32))
    assert model.largest == 3 * 32 * 32
    assert max(held) == 2 * 3 * 32 * 32
    monkeypatch.undo()
    assert pixel_classes.PIXELS > 3 * 32 * 32
    many = maps(map_pixels(asked(model), tmp_path / "s.tif", tmp_path, tile=32))
    np.testing.assert_array_equal(few[0], many[0])
