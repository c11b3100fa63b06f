"""The benchmark of codecs measures what is sent."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from fedx_core.base import config, plugins, state
from flows.settings import preset

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    # By its file: the standard library has a module of that name.
    spec = importlib.util.spec_from_file_location("codecs_benchmark", FOLDER / "codecs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def paired_runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("paired_runs")


def test_bits_and_losses_are_those_of_real_payloads(benchmark: Any) -> None:
    payload, schema = benchmark.changes("resnet6")
    found = {}
    for name in ("dense", "signs", "deadzone"):
        codec = plugins.build("codec", name, {})
        found[name] = benchmark.speed(codec, payload, schema, repeats=1)
        data, _ = codec.encode(payload, schema, {}, 1)
        assert found[name].bits == 8 * len(data) / state.count(payload)
        assert found[name].encode > 0
        assert found[name].decode > 0
    assert found["dense"].lost == 0
    assert 0.1 < found["deadzone"].lost < found["signs"].lost < 0.5


def test_paired_differences_have_students_interval(paired_runs: Any) -> None:
    ours, theirs = {1: 0.80, 2: 0.78, 3: 0.79}, {1: 0.79, 2: 0.78, 3: 0.78}
    said = paired_runs.difference(ours, theirs)
    assert said == "+0.67 (-0.77 to +2.10)"  # 4.303 * 0.577 / sqrt(3)
    assert paired_runs.difference({1: 0.5}, {1: 0.4}) == "+10.00"
    assert paired_runs.difference(ours, ours) == "-"


def test_the_preset_of_few_bytes_is_what_the_results_are_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measured = importlib.import_module("fewer_bytes")
    fewer = config.load(
        ROOT / "params.yaml", {**measured.SHARED, **measured.ROWS["fewer"].settings}
    )
    shipped = {**measured.SHARED, **preset.settings("fewer_bytes", "fedavg")}
    del shipped["method.name"], shipped["codec.name"]
    assert config.load(ROOT / "params.yaml", shipped) == fewer
