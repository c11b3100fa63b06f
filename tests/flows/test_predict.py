"""A trained model on images and scenes; real ones where the shared data is there."""

import csv
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image as pillow
from rasterio import Affine
from torch import nn

from bed import NARROW
from fedx_core.data import eurosat
from fedx_core.images import set_folder
from fedx_core.images.pixels import Pixels
from fedx_core.models import catalogue
from fedx_core.predict import model_file
from fedx_core.predict.model_file import Card

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


def card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "format": model_file.FORMAT,
        "version": "0",
        "run": "base",
        "seed": 1,
        "round_index": 2,
        "dataset": "EuroSAT",
        "model": "resnet6",
        "bands": ("B04", "B03", "B02"),
        "class_names": eurosat.CLASS_NAMES,
        "label_kind": "single",
        "image_size": 64,
        "pixels": Pixels(
            scale=255.0, mean=eurosat.RGB_MEAN, std=eurosat.RGB_STD, input_size=None,
            memory_format="channels_last",
        ),
        "units_kept": {},
    }  # fmt: skip
    return Card(**(values | changes))


ALL_BANDS = card(
    bands=eurosat.ALL_BANDS,
    pixels=Pixels(
        scale=10_000.0,
        mean=tuple(value / 10_000 for value in eurosat.ALL_MEAN),
        std=tuple(value / 10_000 for value in eurosat.ALL_STD),
        input_size=None,
        memory_format="contiguous",
    ),
)


def saved(path: Path, about: Card) -> nn.Module:
    """Write a model with random weights, and return it."""
    model = catalogue.build(about.model, len(about.bands), len(about.class_names), seed=3)
    path.write_bytes(model_file.pack(model.state_dict(), about))
    return model.eval()


def slowly(model: nn.Module, image: NDArray[np.integer], about: Card) -> list[float]:
    """Compute one image's probabilities from the definitions, in float64."""
    pixels = about.pixels
    planes = [
        (plane.astype(np.float64) / pixels.scale - mean) / std
        for plane, mean, std in zip(image, pixels.mean, pixels.std, strict=True)
    ]
    with torch.no_grad():
        logits = model.double()(torch.from_numpy(np.stack(planes))[None])[0].numpy()
    if about.label_kind == "multi":
        return [1 / (1 + float(np.exp(-logit))) for logit in logits]
    exponentials = np.exp(logits - logits.max())
    return list(map(float, exponentials / exponentials.sum()))


def unpacked(archive: Path, names: list[str], folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder, names)


def read(path: Path) -> NDArray[np.integer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            image: NDArray[np.integer] = file.read()
            return image


def write_scene(path: Path, pixels: NDArray[np.integer], **profile: Any) -> None:
    values = {
        "crs": "EPSG:32629", "transform": Affine(10, 0, 600_000, 0, -10, 4_200_000),
        "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2],
        "dtype": pixels.dtype,
    }  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", **(values | profile)) as file:
        file.write(pixels)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_probabilities_of_real_images_are_those_of_a_slow_computation(
    kind: str, shared_data: Path, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    names = ["River/River_5.jpg", "Forest/Forest_12.jpg", "SeaLake/SeaLake_7.jpg"]
    unpacked(shared_data / "eurosat_rgb.zip", names, tmp_path / "images")
    about = card(label_kind=kind)
    model = saved(tmp_path / "m.safetensors", about)
    assert fedx("predict", "m.safetensors", "images", "--json", "--workers", "2") == 0
    said = capsys.readouterr()
    assert not said.err
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [one["image"] for one in found] == [f"images/{name}" for name in sorted(names)]
    for one, name in zip(found, sorted(names), strict=True):
        with pillow.open(tmp_path / "images" / name) as file:
            image = np.asarray(file).transpose(2, 0, 1)
        expected = slowly(model, image, about)
        assert list(one["probabilities"]) == list(eurosat.CLASS_NAMES)
        assert list(one["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        falling = sorted(range(10), key=lambda n: -expected[n])
        if kind == "single":
            assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-12)
            assert one["labels"] == [eurosat.CLASS_NAMES[falling[0]]]
        else:
            assert one["labels"] == [
                eurosat.CLASS_NAMES[n] for n in falling if expected[n] >= 0.5
            ]  # fmt: skip


def test_geotiffs_of_all_bands_are_read_with_their_scale(
    shared_data: Path, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    name = "AnnualCrop/AnnualCrop_1227.tif"
    unpacked(shared_data / "eurosat_ms270.zip", [name], tmp_path)
    model = saved(tmp_path / "m.safetensors", ALL_BANDS)
    assert fedx("predict", "m.safetensors", name, "--json", "--top", "2") == 0
    found = json.loads(capsys.readouterr().out)
    expected = slowly(model, read(tmp_path / name), ALL_BANDS)
    first, second = sorted(range(10), key=lambda n: -expected[n])[:2]
    assert list(found["probabilities"]) == [eurosat.CLASS_NAMES[n] for n in (first, second)]
    assert found["probabilities"][eurosat.CLASS_NAMES[first]] == pytest.approx(
        expected[first], abs=1e-5
    )


def test_a_run_predicts_its_test_images_as_well_as_it_reported(
    fedx: Fedx, capsys: Said, tiny_data: Path, tmp_path: Path
) -> None:
    assert fedx("run", *QUIETLY, "--run", "base") == 0
    prepared = set_folder.read(tiny_data / "synthetic" / "prepared")
    test = prepared.parts["test"]
    for number, image in enumerate(np.asarray(test.images)):
        (tmp_path / "images").mkdir(exist_ok=True)
        pillow.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"images/{number:03}.png")
    capsys.readouterr()
    assert fedx("predict", "base", "images", "--out", "out/labels.csv") == 0
    assert capsys.readouterr().out == "out/labels.csv: 40 images\n"
    with (tmp_path / "out" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = prepared.description.class_names
    assert list(rows[0]) == ["image", "label", *names]
    right = [row["label"] == names[label] for row, label in zip(rows, test.labels, strict=True)]
    summary = json.loads((tmp_path / "runs/base/results/summary.json").read_text())
    assert np.mean(right) == summary["metrics"]["overall_accuracy"]
    assert fedx("predict", "base", "images", "--out", "labels.json", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert json.loads((tmp_path / "labels.json").read_text()) == lines


def test_a_model_says_what_it_is_and_equal_runs_write_equal_bytes(
    fedx: Fedx, tmp_path: Path
) -> None:
    for root in ("one", "two"):
        assert fedx("run", *QUIETLY, "--run", "base", "--run-root", root) == 0
    files = [Path(root, "base", "model.safetensors") for root in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    model, about = model_file.read(files[0])
    assert (about.run, about.seed, about.round_index, about.model) == ("base", 1, 3, NARROW)
    assert (about.label_kind, about.image_size, len(about.class_names)) == ("single", 32, 10)
    assert about.pixels.scale == 255
    dead = {name: units - kept for name, (kept, units) in about.units_kept.items()}
    assert dead["conv1"] == 4
    silent = model.get_parameter("conv1.weight").flatten(1).abs().sum(1) == 0
    assert int(silent.sum()) == dead["conv1"]
    # Another run can start from it.
    short = (*QUIETLY, "--rounds", "1", "--method", "fedavg")
    assert fedx("run", *short, "--set", f"model.weights={files[0]}") == 0


def test_a_scene_becomes_maps_that_lie_on_it(
    shared_data: Path, fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    names = [f"{c}/{c}_{n}.tif" for c, n in (("AnnualCrop", 1227), ("Forest", 100))]
    with zipfile.ZipFile(shared_data / "eurosat_ms270.zip") as archive:
        there = archive.namelist()
    names = [name if name in there else there[20 * n] for n, name in enumerate(names, start=1)]
    unpacked(shared_data / "eurosat_ms270.zip", names, tmp_path)
    one, two = (read(tmp_path / name) for name in names)
    # 64 + 64 + 40 columns, 64 + 36 rows; the second row of tiles begins in line 36.
    wide = np.concatenate([one, two, one[:, :, :40]], axis=2)
    scene = np.concatenate([wide, wide[:, :36]], axis=1)
    scene[:, 90:, 130:] = 0
    write_scene(tmp_path / "scene.tif", scene, nodata=0)
    model = saved(tmp_path / "m.safetensors", ALL_BANDS)
    options = ("--tile", "64", "--out", "maps", "--workers", "1")
    assert fedx("predict", "m.safetensors", "scene.tif", *options, "--json") == 0
    said = capsys.readouterr()
    assert not said.err
    found = json.loads(said.out)
    assert (found["tiles"], found["left_out"], found["georeferenced"]) == (5, 1, True)

    with rasterio.open(tmp_path / "maps/scene.classes.tif") as file:
        classes, profile, tags = file.read(), file.profile, file.tags()
    with rasterio.open(tmp_path / "maps/scene.probabilities.tif") as file:
        probabilities, titles = file.read(), file.descriptions
        assert file.crs == profile["crs"] == rasterio.CRS.from_epsg(32629)
        assert file.transform == profile["transform"] == Affine(640, 0, 600_000, 0, -640, 4_200_000)
    assert titles == eurosat.CLASS_NAMES
    assert [tags[f"CLASS_{n}"] for n in range(10)] == list(eurosat.CLASS_NAMES)
    assert probabilities.shape == (10, 2, 3)
    counts: dict[str, int] = {}
    for row, top in enumerate((0, 36)):
        for column, left in enumerate((0, 64, 104)):
            if (row, column) == (1, 2):
                assert np.isnan(probabilities[:, row, column]).all()
                assert classes[0, row, column] == profile["nodata"] == 255
                continue
            tile = scene[:, top : top + 64, left : left + 64]
            expected = slowly(model, tile, ALL_BANDS)
            assert list(probabilities[:, row, column]) == pytest.approx(expected, abs=1e-5)
            label = int(np.argmax(expected))
            assert classes[0, row, column] == label
            counts[eurosat.CLASS_NAMES[label]] = counts.get(eurosat.CLASS_NAMES[label], 0) + 1
    assert found["counts"] == counts

    before = [path.read_bytes() for path in sorted((tmp_path / "maps").iterdir())]
    assert fedx("predict", "m.safetensors", "scene.tif", *options) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("scene.tif: 5 tiles, 1 left out for nodata; ")
    assert shown[1:] == ["maps/scene.classes.tif", "maps/scene.probabilities.tif"]
    assert [path.read_bytes() for path in sorted((tmp_path / "maps").iterdir())] == before


def test_a_scene_of_several_labels_has_a_band_a_class(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    about = card(label_kind="multi", class_names=("water", "trees"), image_size=32)
    model = saved(tmp_path / "m.safetensors", about)
    scene = np.random.default_rng(0).integers(0, 256, (3, 32, 64), dtype=np.uint8)
    write_scene(tmp_path / "s.tif", scene)
    expected = np.array([slowly(model, scene[:, :, c : c + 32], about) for c in (0, 32)])
    least = float(np.median(expected))
    options = ("--tile", "32", "--out", "maps", "--threshold", str(least))
    assert fedx("predict", "m.safetensors", "s.tif", *options) == 0
    with rasterio.open(tmp_path / "maps/s.classes.tif") as file:
        assert file.descriptions == ("water", "trees")
        assert np.array_equal(file.read()[:, 0].T, (expected >= least).astype(np.uint8))
    capsys.readouterr()


def png(path: Path, shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
    pillow.fromarray(np.zeros(shape, dtype)).save(path)


def metadata(path: Path, header: Mapping[str, str] | None) -> None:
    from safetensors.torch import save_file

    save_file({"fc.weight": torch.zeros(2)}, path, dict(header) if header else None)


def test_what_a_model_would_misread_is_refused(fedx: Fedx, capsys: Said, tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors", card())
    saved(tmp_path / "all.safetensors", ALL_BANDS)
    png(tmp_path / "grey.png", (64, 64))
    png(tmp_path / "large.png", (64, 80, 3))
    (tmp_path / "broken.jpg").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sub").mkdir()
    metadata(tmp_path / "foreign.safetensors", None)
    metadata(tmp_path / "early.safetensors", {"fedx": '{"run":"base"}'})
    metadata(tmp_path / "late.safetensors", {"fedx": '{"format":9,"version":"7.1"}'})
    metadata(tmp_path / "damaged.safetensors", {"fedx": '{"format":1}'})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:500])
    rgb = np.zeros((3, 70, 64), np.uint8)
    write_scene(tmp_path / "scene.tif", rgb)
    write_scene(tmp_path / "sub" / "scene.tif", rgb)
    write_scene(tmp_path / "wide.tif", rgb.astype(np.uint16))
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        file.descriptions = ("B08", "B03", "B04")
    maps = ("--out", "maps", "--tile", "64")
    cases = [
        (["m.safetensors", "grey.png"], "grey.png has 1 bands, the model reads 3: B04, B03, B02"),
        (["m.safetensors", "large.png"], "has 80 x 64 pixels, the model was trained on 64 x 64"),
        (["m.safetensors", "sub/scene.tif"], "map a GeoTIFF scene with --tile 64"),
        (["m.safetensors", "wide.tif"], "wide.tif has uint16 pixels, the model reads uint8"),
        (["m.safetensors", "broken.jpg"], "broken.jpg does not decode"),
        (["m.safetensors", "empty"], "no images in empty"),
        (["m.safetensors", "nowhere"], "no nowhere; name images"),
        (["all.safetensors", "wide.tif", *maps], "wide.tif has 3 bands, the model reads 13"),
        (
            ["m.safetensors", "scene.tif", *maps],
            "the model reads B04, B03, B02: B02 is missing",
        ),
        (["m.safetensors", "wide.tif", *maps], "has uint16 pixels"),
        (["m.safetensors", "grey.png", "--threshold", "0.2"], "--threshold is for models that say"),
        (["m.safetensors", "broken.jpg", *maps], "broken.jpg does not open"),
        (
            ["m.safetensors", "sub/scene.tif", "--out", "m", "--tile", "66"],
            "less than one tile of 66",
        ),
        (["m.safetensors", "scene.tif", "sub/scene.tif", *maps], "several scenes are called scene"),
        (["foreign.safetensors", "grey.png"], "does not say which model it holds"),
        (["early.safetensors", "grey.png"], "`fedx resume RUN` writes a finished run's anew"),
        (["late.safetensors", "grey.png"], "written by FedX 7.1"),
        (["damaged.safetensors", "grey.png"], "has a damaged description"),
        (["cut.safetensors", "grey.png"], "is no whole safetensors file"),
        (["none.safetensors", "grey.png"], "none.safetensors can't be read"),
        (["nobody", "grey.png"], "no run 'nobody'"),
    ]
    for arguments, wanted in cases:
        assert fedx("predict", *arguments) == 1, arguments
        said = capsys.readouterr()
        assert wanted in said.err
        assert len(said.err.splitlines()) == 1, said.err
        assert not said.out
    assert not list(Path("maps").glob("*"))
    assert fedx("predict", "m.safetensors", "grey.png", "--out", "labels.txt") == 2
    assert fedx("predict", "m.safetensors", "scene.tif", "--tile", "64") == 2
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    assert fedx("predict", "begun", "grey.png") == 1
    assert "has no final model yet" in capsys.readouterr().err


def test_one_bad_file_of_many_is_listed_and_the_rest_is_written(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    saved(tmp_path / "m.safetensors", card(class_names=("image", "=label", "label")))
    (tmp_path / "images" / "there").mkdir(parents=True)
    for name in ("a", "c", "there/d"):
        png(tmp_path / "images" / f"{name}.png", (64, 64, 3))
    (tmp_path / "images" / "b.png").write_bytes(b"no")
    (tmp_path / "images" / "e").symlink_to(tmp_path / "images" / "there")
    assert fedx("predict", "m.safetensors", "images", "--out", "labels.csv") == 1
    said = capsys.readouterr()
    assert said.out == "labels.csv: 4 images\n"
    assert "1 of 5 images are left out:\n  images/b.png does not decode" in said.err
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [
        f"images/{name}.png" for name in ("a", "c", "e/d", "there/d")
    ]
    assert list(rows[0]) == ["image", "label", "image (class)", "'=label", "label (class)"]
    three = (float(rows[0][name]) for name in list(rows[0])[2:])
    assert sum(three) == pytest.approx(1)


def test_one_bad_scene_of_many_is_listed_and_the_others_are_mapped(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    saved(tmp_path / "m.safetensors", card())
    write_scene(tmp_path / "good.tif", np.zeros((3, 64, 64), np.uint8))
    (tmp_path / "bad.tif").write_bytes(b"no")
    options = ("--tile", "64", "--out", "maps")
    assert fedx("predict", "m.safetensors", "bad.tif", "good.tif", *options) == 1
    assert "1 of 2 scenes are left out:\n  bad.tif does not open" in capsys.readouterr().err
    assert (tmp_path / "maps" / "good.classes.tif").exists()


def test_a_pickle_of_weights_is_named_and_not_loaded(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    png(tmp_path / "a.png", (64, 64, 3))
    torch.save({"w": torch.zeros(2)}, tmp_path / "m.pt")
    torch.save({"w": torch.zeros(2)}, tmp_path / "renamed.safetensors")
    for name in ("m.pt", "renamed.safetensors"):
        assert fedx("predict", name, "a.png") == 1
        said = capsys.readouterr().err
        assert "holds a pickle, which may run anything" in said
        assert "weights_only=True" in said
