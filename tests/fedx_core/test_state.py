import math

import pytest
import torch
from torch import nn

from fedx_core.base import state
from fedx_core.base.errors import NonFiniteError, SchemaError


def sample() -> state.StateDict:
    return {
        "conv.weight": torch.arange(6.0).reshape(2, 3),
        "bn.num_batches_tracked": torch.tensor(3),
    }


def test_a_copy_shares_nothing() -> None:
    first = sample()
    second = state.copy(first)
    second["conv.weight"].fill_(9)
    assert state.equal(first, sample())


def test_norm_and_count_are_those_of_the_flat_vector() -> None:
    assert state.count(sample()) == 7
    assert state.norm(sample()) == pytest.approx(math.sqrt(sum(i * i for i in range(6))))
    difference = state.subtract(sample(), sample())
    assert state.norm(difference) == 0


def test_equal_sees_bits_names_order_shapes_and_dtypes() -> None:
    assert state.equal(sample(), sample())
    reordered = dict(reversed(sample().items()))
    assert not state.equal(sample(), reordered)
    assert not state.equal({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)})
    assert not state.equal({"a": torch.zeros(2)}, {"a": torch.zeros(1, 2)})
    assert not state.equal({"a": torch.zeros(2)}, {"a": torch.zeros(2).double()})


def test_the_digest_does_not_depend_on_memory_layout() -> None:
    images = torch.randn(2, 3, 4, 4)
    last = images.contiguous(memory_format=torch.channels_last)
    assert state.digest({"w": images}) == state.digest({"w": last})


def test_sections_are_prefixes() -> None:
    payload = state.as_section(sample(), "model") | {"mask/conv": torch.ones(2)}
    assert state.equal(state.section(payload, "model"), sample())
    assert list(state.section(payload, "mask")) == ["conv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.weight": torch.zeros(3, 2)}, r"\(3, 2\), wanted .*\(2, 3\)"),
        ({"conv.weight": torch.zeros(2, 3).half()}, r"float16.*wanted torch\.float32"),
        ({"extra": torch.zeros(1)}, "'extra' is not expected"),
    ],
)
def test_another_layout_is_refused_by_the_entry(change: state.StateDict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        state.require_same_layout(sample(), sample() | change)
    with pytest.raises(SchemaError, match="is missing"):
        state.require_same_layout(sample(), {})


def test_values_that_are_not_finite_are_counted_by_entry_and_owner() -> None:
    poisoned = sample()
    poisoned["conv.weight"][0, 1] = math.inf
    poisoned["conv.weight"][1, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"client-01: 2 of 6 values of 'conv\.weight'"):
        state.require_finite(poisoned, "client-01")
    # A sum may overflow though every value is finite.
    state.require_finite({"large": torch.full((4,), 3e38)}, "client-01")


def test_loading_in_place_does_what_load_state_dict_does() -> None:
    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))

    with torch.random.fork_rng():
        given, one, other = model(1), model(2), model(2)
    one.to(memory_format=torch.channels_last)
    values = given.state_dict()
    state.load_(one, values)
    other.load_state_dict(values)
    assert state.equal(one.state_dict(), other.state_dict())
    assert all(parameter.requires_grad for parameter in one.parameters())
    kernel = one.get_parameter("0.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert kernel is not given.get_parameter("0.weight")


@pytest.mark.parametrize(
    ("change", "name"),
    [({"0.bias": torch.zeros(1)}, "0.bias"), ({"extra": torch.zeros(1)}, "extra")],
)
def test_loading_in_place_refuses_what_does_not_fit_and_changes_nothing(
    change: state.StateDict, name: str
) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    before = state.copy(model.state_dict())
    with pytest.raises(SchemaError, match=f"{name!r} differs"):
        state.load_(model, {**before, "0.weight": torch.ones(3, 2), **change})
    assert state.equal(model.state_dict(), before)
