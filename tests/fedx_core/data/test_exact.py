"""Drawn scenes are the same bits on every machine."""

import hashlib
import os
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest

from bed import ROOT
from fedx_core.data import _exact
from fedx_core.data.synthetic import DataSet

# Written down once, on x86-64 with AVX-512. Whoever changes how scenes are drawn writes it anew.
DRAWN = {
    "single": "3bebe8d7eda1ce6e24718dd92f8629339963f041999714f161bc4e7cc71374a0",
    "multi": "e16c97b22fc24873a3c73a002bf98fc74d4a4f13def4365ad2cfd1df901606bf",
}
POOR = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX512_SPR AVX2 FMA3",
    "OPENBLAS_CORETYPE": "Prescott",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
}


def drawn(kind: str) -> str:
    """Hash labels, origins and pixels of some scenes."""
    source = DataSet(label_kind=kind, train=40, validation=20, test=20, image_size=32).open()  # type: ignore[arg-type]
    split = source.splits["train"]
    hasher = hashlib.sha256(split.labels.astype("<i8").tobytes() + split.groups.tobytes())
    for image in split.read(np.arange(40)):
        hasher.update(image.astype("<u2").tobytes())
    return hasher.hexdigest()


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_scenes_are_the_bytes_that_were_written_down(kind: str) -> None:
    assert drawn(kind) == DRAWN[kind]


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_processor_that_knows_less_draws_the_same_bytes(kind: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    found = subprocess.run(
        [sys.executable, "-c", f"import test_exact; print(test_exact.drawn({kind!r}))"],
        cwd=ROOT / "tests" / "fedx_core" / "data",
        env={**os.environ, "PYTHONPATH": path, **POOR},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == DRAWN[kind]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sine_is_one(dtype: type) -> None:
    turns = np.linspace(-3, 3, 10_001).astype(dtype)
    error = np.abs(_exact.sine(turns) - np.sin(2 * np.pi * turns.astype(np.float64)))
    assert error.max() < (2e-11 if dtype is np.float64 else 1e-6)
    assert _exact.sine(turns).dtype == dtype


def test_normal_draws_are_normal_and_need_no_last_bit_of_a_logarithm() -> None:
    generators = [np.random.Generator(np.random.Philox(key=[1, n])) for n in range(4)]
    values = _exact.normals(generators, (50_000,)).astype(np.float64)
    assert values.shape == (4, 50_000)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((np.abs(values) < 1.96).mean() - 0.95) < 0.003
    # No quantile is so near the middle of two steps that a rounding could tip it over.
    steps = np.array([NormalDist().inv_cdf((n + 0.5) / 65_536) for n in range(32_768)]) * 4096
    assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-8


def test_interpolation_is_the_product_with_tents() -> None:
    grid = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)
    place = np.linspace(0, 4, 17)
    tents = (1 - np.abs(place[:, None] - np.arange(5))).clip(min=0)
    tents /= np.sqrt((tents**2).sum(axis=1, keepdims=True))
    assert np.allclose(_exact.interpolated(grid, 17), tents @ grid @ tents.T, atol=1e-5)
