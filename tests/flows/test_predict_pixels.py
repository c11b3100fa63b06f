"""``fedx predict`` for models that say a class for each pixel."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image as pillow

from fedx_core.data import _images
from fedx_core.images.pixels import Pixels
from fedx_core.models import catalogue
from fedx_core.objectives import segmentation
from fedx_core.predict import model_file

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
NAMES = ("water", "wood", "label")
CARD = model_file.Card(
    format=model_file.FORMAT, version="0", run="run", seed=1, round_index=1, dataset="covers",
    model="resnet6", bands=("red", "green", "blue"), class_names=NAMES, label_kind="pixels",
    image_size=32, units_kept={},
    pixels=Pixels(
        scale=255.0, mean=(0.5,) * 3, std=(0.25,) * 3, input_size=None, memory_format="contiguous"
    ),
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    """Random weights, also in m.safetensors."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        built = catalogue.build("resnet6", 3, len(NAMES), seed=3)
        made = segmentation.Objective(width=8).build(built, "fc").eval()
    (tmp_path / "m.safetensors").write_bytes(model_file.pack(made.state_dict(), CARD))
    return made


def drawn(path: Path, seed: int = 1, mode: str = "RGB") -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (32, 32, len(mode))
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    if mode == "RGBA":
        image[..., 3] = 255
        image[:8, :, 3] = 0
    pillow.fromarray(image).save(path)
    return image


def said_by(model: torch.nn.Module, image: NDArray[np.uint8]) -> NDArray[np.integer]:
    inputs = (image.transpose(2, 0, 1).astype(np.float64) / 255 - 0.5) / 0.25
    with torch.no_grad():
        return np.asarray(model.double()(torch.from_numpy(inputs)[None])[0].argmax(0))


def test_images_get_masks_and_a_table_of_shares(
    model: torch.nn.Module, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    images = {
        name: drawn(tmp_path / f"images/{name}.png", n) for n, name in enumerate(("a", "b/c"))
    }
    assert fedx("predict", "m.safetensors", "images", "--out", "masks") == 0
    assert capsys.readouterr().out == "masks/shares.csv: 2 images\n"
    with (tmp_path / "masks/shares.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "label", "water", "wood", "label (class)"]
    for row, (name, image) in zip(rows, images.items(), strict=True):
        path = tmp_path / f"masks/{name}.png"
        # It reads as a mask beside an image does.
        mask = _images.classes_of(path.name, path.read_bytes())
        np.testing.assert_array_equal(mask, said_by(model, image))
        with pillow.open(path) as file:
            assert file.mode == "P"
            shown = np.asarray(file.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(shown, axis=0)) == len(np.unique(mask))
        counts = [int((mask == n).sum()) for n in range(3)]
        assert row["image"] == f"images/{name}.png"
        columns = list(row)[2:]
        assert [float(row[c]) for c in columns] == pytest.approx([c / 1024 for c in counts])
        falling = sorted((n for n in range(3) if counts[n]), key=lambda n: -counts[n])
        assert row["label"] == ";".join(NAMES[n] for n in falling)


def test_shares_are_said_without_a_folder_and_in_json(
    model: torch.nn.Module, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    image = drawn(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    mask = said_by(model, image)
    shares = {name: float((mask == n).mean()) for n, name in enumerate(NAMES)}
    assert fedx("predict", "m.safetensors", "a.png", "b.png", "--json") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["shares"] == shares
    assert "1 of 2 images are left out:" in said.err
    assert fedx("predict", "m.safetensors", "a.png") == 0
    first = max(shares, key=lambda name: shares[name])
    assert capsys.readouterr().out.startswith(f"a.png  {first} {100 * shares[first]:.1f} %")
    assert not list(tmp_path.glob("*.csv"))


def test_masked_pixels_of_an_image_are_unknown_and_count_for_nothing(
    model: torch.nn.Module, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    drawn(tmp_path / "a.png", mode="RGBA")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "inner/a.png")
    assert fedx("predict", "m.safetensors", "images.zip", "--out", "masks", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    with pillow.open(tmp_path / "masks/inner/a.png") as file:
        mask = np.asarray(file)
    assert (mask[:8] == 255).all()
    assert (mask[8:] < 3).all()
    assert sum(found["shares"].values()) == pytest.approx(1)


def test_a_scene_is_mapped_pixel_by_pixel(
    model: torch.nn.Module, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    scene = np.random.default_rng(1).integers(1, 256, (3, 40, 50), dtype=np.uint8)
    scene[:, :4, :5] = 0
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", height=40, width=50, count=3, dtype="uint8",
        nodata=0, crs="EPSG:32629", transform=rasterio.Affine(10, 0, 6e5, 0, -10, 42e5),
    ) as file:  # fmt: skip
        file.write(scene)
    options = ("--tile", "32", "--out", "maps", "--workers", "1")
    assert fedx("predict", "m.safetensors", "s.tif", *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "scene", "classes", "probabilities", "pixels", "left_out", "counts", "georeferenced",
    ]  # fmt: skip
    assert (found["pixels"], found["left_out"]) == (1980, 20)
    with rasterio.open(tmp_path / found["classes"]) as file:
        assert (file.shape, file.crs) == ((40, 50), rasterio.CRS.from_epsg(32629))
    before = [path.read_bytes() for path in sorted((tmp_path / "maps").iterdir())]
    assert fedx("predict", "m.safetensors", "s.tif", *options) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("s.tif: 1980 pixels, 20 left out for nodata; ")
    assert said[1:] == ["maps/s.classes.tif", "maps/s.probabilities.tif"]
    assert [path.read_bytes() for path in sorted((tmp_path / "maps").iterdir())] == before


def test_what_makes_no_sense_for_pixels_is_refused(
    model: torch.nn.Module, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    for name in ("images/a.png", "others/a.png", "images/a.jpg", "large.png"):
        drawn(tmp_path / name)
    pillow.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "large.png")
    before = (tmp_path / "images/a.png").read_bytes()
    cases = [
        (["images/a.png", "--top", "2"], 1, "--top is for models of labels of whole images"),
        (["images/a.png", "--threshold", "0.5"], 1, "--threshold is for models of labels of whole"),
        (["images/a.png", "--out", "t.csv"], 2, "is to be the folder of the masks"),
        (["images", "--out", "masks"], 1, "would be masks/a.png, which is that of another"),
        (["images/a.png", "others/a.png", "--out", "masks"], 1, "the mask of others/a.png would"),
        (["images/a.png", "--out", "images"], 1, "or an image itself; choose another --out"),
        (["images/a.png", "--out", "large.png"], 1, "can't write large.png/a.png"),
        (["large.png", "--tile", "41", "--out", "maps"], 1, "less than one tile of 41"),
        (["large.png"], 1, "was trained on 32 x 32; map a GeoTIFF scene with --tile 32"),
    ]
    for arguments, code, wanted in cases:
        assert fedx("predict", "m.safetensors", *arguments) == code, arguments
        said = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert wanted in said, said
    assert (tmp_path / "images/a.png").read_bytes() == before
    assert not (tmp_path / "masks").exists()
