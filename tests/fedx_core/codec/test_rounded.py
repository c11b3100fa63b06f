"""Nearest levels against a slow restatement, and bytes that can't be."""

import math
import struct

import pytest
import torch

from fedx_core.base.errors import ConfigError, PayloadError
from fedx_core.codec import rounded


def values(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_range_with_the_least_error_is_taken_and_each_value_goes_to_its_nearest_level(
    bits: int,
) -> None:
    codec, given = rounded.Codec(bits=bits), values(300)
    levels = 2 ** (bits - 1) - 1
    data, received = codec.compress({"model/w": given}, 1)
    assert len(data) == 4 + math.ceil(300 * bits / 8)
    largest = max(abs(v) for v in given.tolist())
    outcomes = []
    for place in range(1, 17):
        reach = largest * place / 16
        found = [
            reach / levels * round(max(-1.0, min(1.0, v / reach)) * levels) for v in given.tolist()
        ]
        error = sum((v - u) ** 2 for v, u in zip(given.tolist(), found, strict=True))
        outcomes.append((error, found))
    error, wanted = min(outcomes)
    assert received["model/w"].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    pays_to_clip = outcomes.index((error, wanted)) < 15
    assert pays_to_clip == (bits < 8)
    again = codec.expand(memoryview(bytes(data)), {"model/w": 300})["model/w"]
    assert torch.equal(again, received["model/w"])


def test_more_bits_leave_less_and_nothing_is_drawn() -> None:
    given = {"model/w": values(2000)}
    errors = []
    for bits in range(2, 9):
        codec = rounded.Codec(bits=bits)
        data, received = codec.compress(given, 1)
        assert codec.compress(given, 2)[0] == data
        errors.append(float((given["model/w"] - received["model/w"]).norm()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("given", [torch.zeros(5), torch.empty(0), torch.full((3,), 1e-45)])
def test_what_has_no_range_is_zero(given: torch.Tensor) -> None:
    codec = rounded.Codec(bits=4)
    data, received = codec.compress({"model/w": given}, 1)
    assert received["model/w"].isfinite().all()
    counts = {"model/w": len(given)}
    assert torch.equal(
        codec.expand(memoryview(bytes(data)), counts)["model/w"], received["model/w"]
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5])
def test_a_range_that_can_not_be_is_refused(bad: float) -> None:
    codec = rounded.Codec(bits=4)
    body = bytearray(codec.compress({"model/w": values(9)}, 1)[0])
    struct.pack_into("<f", body, 0, bad)
    with pytest.raises(PayloadError, match="magnitude"):
        codec.expand(memoryview(body), {"model/w": 9})
    body = bytearray(codec.compress({"model/w": values(9)}, 1)[0])
    body[4] = 0xFF  # a level of 8, where 7 is the last
    with pytest.raises(PayloadError, match="level"):
        codec.expand(memoryview(body), {"model/w": 9})


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_bits_that_it_has_not_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=r"bits must be 2 to 8.*signs takes one bit"):
        rounded.Codec(bits=bits)
