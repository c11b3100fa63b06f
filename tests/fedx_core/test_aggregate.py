import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedx_core.base.errors import RunError, SchemaError
from fedx_core.methods._averages import total, weighted_mean


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 99)), min_size=1, max_size=6))
def test_the_mean_is_equation_3_restated_slowly(clients: list[tuple[int, int]]) -> None:
    states = []
    for weight, seed in clients:
        generator = torch.Generator().manual_seed(seed)
        states.append((weight, {"w": torch.randn(3, 2, generator=generator)}))
    whole = sum(weight for weight, _ in states)
    wanted = torch.zeros(3, 2, dtype=torch.float64)
    for weight, values in states:
        wanted += weight / whole * values["w"].double()
    found = weighted_mean(iter(states))
    assert found["w"].dtype == torch.float32
    torch.testing.assert_close(found["w"], wanted.float(), atol=1e-6, rtol=1e-6)


def test_integer_counters_are_kept_and_arguments_unchanged() -> None:
    first = {"n": torch.tensor(7), "w": torch.ones(2)}
    second = {"n": torch.tensor(9), "w": torch.zeros(2)}
    found = weighted_mean([(1, first), (3, second)])
    assert int(found["n"]) == 7
    assert found["w"].tolist() == [0.25, 0.25]
    assert first["w"].tolist() == [1, 1]


def test_equal_models_stay_bit_for_bit_what_they_are() -> None:
    value = {"w": torch.randn(100)}
    assert torch.equal(weighted_mean([(3, value), (5, value), (11, value)])["w"], value["w"])


def test_updates_of_other_shapes_or_no_updates_are_refused() -> None:
    with pytest.raises(SchemaError, match="'w'"):
        weighted_mean([(1, {"w": torch.ones(2)}), (1, {"w": torch.ones(3)})])
    with pytest.raises(RunError, match="no update"):
        weighted_mean([])


def test_an_entry_is_averaged_over_the_states_that_have_it() -> None:
    both = {"a": torch.full((1,), 5.0), "b": torch.ones(2)}
    found = total([(1, {"a": torch.ones(1)}), (3, both)])
    assert (found.weight, found.weights) == (4, {"a": 4, "b": 3})
    mean = {name: value.tolist() for name, value in found.mean().items()}
    assert mean == {"a": [4.0], "b": [1.0, 1.0]}
    assert found.sums["a"].tolist() == [16.0], "a mean leaves the sum as it is"
