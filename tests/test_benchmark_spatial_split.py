"""The benchmark of splits cuts by longitude, and reads what it has laid out."""

import importlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

FOLDER = Path(__file__).parent.parent / "benchmarks"

# rasterio's own, where a file says where it lies.
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("spatial_split")


def test_no_test_patch_lies_west_of_a_training_patch(split: Any) -> None:
    longitudes = np.random.default_rng(1).uniform(-10, 30, 50)
    train, validation, test = split.by_longitude(longitudes)
    assert [len(train), len(validation), len(test)] == [30, 10, 10]
    assert longitudes[train].max() <= longitudes[validation].min()
    assert longitudes[validation].max() <= longitudes[test].min()
    assert sorted([*train, *validation, *test]) == list(range(50))


def test_patches_are_laid_out_and_trained_on(split: Any, tmp_path: Path) -> None:
    places = {}
    with zipfile.ZipFile(tmp_path / "patches.zip", "w") as archive:
        for number in range(20):
            name, west = f"{('Forest', 'River')[number % 2]}_{number}.tif", 500_000 + 1_000 * number
            pixels = np.random.default_rng(number).integers(0, 4000, (13, 8, 8), dtype=np.uint16)
            form = {"driver": "GTiff", "width": 8, "height": 8, "count": 13, "dtype": "uint16"}
            buffer = io.BytesIO()
            with rasterio.open(
                buffer,
                "w",
                crs="EPSG:32632",
                transform=from_origin(west, 5_000_000, 10, 10),
                **form,
            ) as file:
                file.write(pixels)
            archive.writestr(f"{name.partition('_')[0]}/{name}", buffer.getvalue())
            places[name] = number
    longitudes = split.unpack(tmp_path / "patches.zip", tmp_path / "raw" / split.LAYOUT)
    assert sorted(longitudes, key=lambda name: longitudes[name]) == sorted(
        places, key=places.__getitem__
    )
    names = np.array(sorted(longitudes))
    parts = split.by_longitude(np.array([longitudes[name] for name in names]))
    split.lay_out(tmp_path / "raw", names, parts)
    assert 0 <= split.accuracy(tmp_path / "raw", seed=1, rounds=1) <= 1
