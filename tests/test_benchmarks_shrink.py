"""The benchmark of small models counts what it says."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alone import desk_of
from fedx_core.base import plugins, state
from fedx_core.methods.base import Method

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("shrink")


def test_a_saving_is_measured_on_real_steps_and_drawn_in_the_table(benchmark: Any) -> None:
    found = benchmark.measure("resnet6", 0.9, coupled=True, pairs=2, batch=2, channels_last=True)
    assert {variant: len(times) for variant, times in found.wall.items()} == {
        "dense": 2,
        "masked": 2,
        "small": 2,
    }
    assert 0 < found.parameters < found.masked_bytes < 0.2
    assert found.sliced_bytes == pytest.approx(found.parameters, rel=0.1)
    assert found.memory < 0.3
    row = benchmark.table([found]).splitlines()[-1]
    assert row.startswith("| resnet6 | 0.9 | coupled |")


def test_payloads_are_as_long_as_what_is_encoded(benchmark: Any) -> None:
    model = benchmark.catalogue.build("resnet6", 3, 5, seed=1)
    graph = benchmark.catalogue.entry("resnet6").graph(model)
    mask = benchmark.random_mask(graph, 0.5, coupled=False)
    info = desk_of(model, graph)
    for name in ("masked", "sliced"):
        codec = plugins.build("codec", name, {})
        schema = Method().schema(info, mask, codec.mode).up
        sent, _ = codec.encode(state.as_section(model.state_dict(), "model"), schema, {}, 0)
        assert benchmark.payload_bytes(model, graph, mask, codec.mode) == len(sent)


def test_memory_is_four_times_the_weights_and_what_is_saved_once(benchmark: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
    weights = sum(p.numel() for p in model.parameters())
    # Sigmoid's output is saved by itself and by the next layer, the images are the caller's own.
    activations = 2 * 8 + 2 * 3
    found = benchmark.step_bytes(model, torch.randn(2, 4), torch.tensor([0, 1]))
    extra = found - 4 * (4 * weights + activations)
    assert 0 <= extra <= 8  # the loss saves a scalar or two of its own
