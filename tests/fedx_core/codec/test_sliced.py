"""The wire format of small models: nothing is lost, and no dead value travels."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alone import desk_of
from fedx_core.base import plugins, state
from fedx_core.methods.base import Method
from fedx_core.models import catalogue
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.shrink.values import cut
from fedx_core.wire.frame import HEADER


def described(name: str) -> Any:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 3, 5, seed=3)
    graph = entry.graph(model)
    return model.state_dict(), desk_of(model, graph)


MODELS = {name: described(name) for name in ("resnet6", "convnextv2_atto")}


def size(values: dict[str, torch.Tensor]) -> int:
    return HEADER.size + sum(value.numel() * value.element_size() for value in values.values())


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_masked_state_comes_back_bit_by_bit_from_the_bytes_of_the_small_one(
    name: str, data: Any
) -> None:
    dense, info = MODELS[name]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    entries = {
        layer.name: torch.rand(layer.units, generator=generator)
        < data.draw(st.sampled_from([0.0, 0.02, 0.5, 0.9, 1.0]))
        for layer in info.graph.layers
    }
    mask = Mask("units", entries)
    masked = masks.apply(dense, info.graph.support(mask, "slices"))
    codec = plugins.build("codec", "sliced", {})
    schema = Method().schema(info, mask, codec.mode).up
    sent = codec.encode(state.as_section(masked, "model"), schema, {}, 0)[0]
    assert len(sent) == size(cut(masked, info.graph.cuts(mask, "slices")))
    received = state.section(codec.decode(sent, schema), "model")
    assert state.equal(received, {name: value.contiguous() for name, value in masked.items()})
    other = plugins.build("codec", "masked", {})
    wider = Method().schema(info, mask, other.mode).up
    assert len(sent) <= len(other.encode(state.as_section(masked, "model"), wider, {}, 0)[0])


def test_without_a_mask_everything_travels() -> None:
    dense, info = MODELS["resnet6"]
    codec = plugins.build("codec", "sliced", {})
    schema = Method().schema(info, None, codec.mode).up
    assert len(codec.encode(state.as_section(dense, "model"), schema, {}, 0)[0]) == size(dense)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (5, 1), (1, 1), (5, 4)])
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_supports_of_any_broadcastable_shape_round_trip(
    rows: int, columns: int, kept: float
) -> None:
    from fedx_core.wire.messages import Entry, Schema

    codec = plugins.build("codec", "sliced", {})
    for tail in ((), (3, 3)):
        value = torch.randn(5, 4, *tail)
        support = torch.rand(rows, columns, *[1] * len(tail)) < kept
        schema = Schema((Entry("w", "torch.float32", tuple(value.shape)),), {"w": support})
        found = codec.decode(codec.encode({"w": value}, schema, {}, 0)[0], schema)["w"]
        assert torch.equal(found, torch.where(support, value, 0.0))
