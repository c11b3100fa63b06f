"""Signs and the largest values against slow restatements, and bytes that can't be."""

import math
import struct

import pytest
import torch

from fedx_core.base.errors import PayloadError
from fedx_core.codec import signs, topk


def values(*counts: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {f"model/{place}": torch.randn(n, generator=generator) for place, n in enumerate(counts)}


def test_signs_are_a_bit_a_value_and_the_mean_magnitude_of_the_entry() -> None:
    given = values(100, 7) | {"model/zero": torch.zeros(3)}
    data, received = signs.Codec().compress(given, 1)
    assert len(data) == 3 * 4 + 13 + 1 + 1
    for name, value in given.items():
        mean = sum(abs(v) for v in value.tolist()) / len(value)
        for v, found in zip(value.tolist(), received[name].tolist(), strict=True):
            assert found == pytest.approx(mean if v >= 0 else -mean, rel=1e-5)
        # Karimireddy et al., lemma 8: what is left is smaller than what was given.
        left = float((value - received[name]).square().sum())
        norm = float(value.square().sum())
        ones = float(value.abs().sum())
        assert left == pytest.approx(norm - ones**2 / len(value), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5])
def test_a_magnitude_that_can_not_be_is_refused(bad: float) -> None:
    for codec in (signs.Codec(), topk.Codec(density=0.5)):
        data, _ = codec.compress(values(50), 1)
        body = bytearray(data)
        struct.pack_into("<f", body, 0, bad)
        with pytest.raises(PayloadError, match="magnitude"):
            codec.expand(memoryview(body), {"model/0": 50})


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_the_largest_of_all_entries_together_are_sent_as_their_mean_magnitude(
    density: float,
) -> None:
    given = values(900, 60, 40)
    codec = topk.Codec(density=density)
    data, received = codec.compress(given, 1)
    every = sorted(
        (abs(v), n, i) for n, value in given.items() for i, v in enumerate(value.tolist())
    )
    count = max(1, round(density * 1000))
    chosen = {(n, i) for _, n, i in every[-count:]}
    mean = sum(size for size, _, _ in every[-count:]) / count
    for name, value in given.items():
        for i, v in enumerate(value.tolist()):
            wanted = math.copysign(mean, v) if (name, i) in chosen else 0.0
            assert float(received[name][i]) == pytest.approx(wanted, rel=1e-5)
    bits = count * (2 + max(math.log2(1000 / count), 0) + 1)
    assert 8 * len(data) <= bits + 32 + 3 * 8 + count


def test_places_that_can_not_be_are_refused() -> None:
    codec = topk.Codec(density=0.1)
    data, _ = codec.compress(values(200), 1)
    refused = 0
    for place in range(4, len(data)):
        for bit in range(8):
            body = bytearray(data)
            body[place] ^= 1 << bit
            try:
                found = codec.expand(memoryview(body), {"model/0": 200})["model/0"]
            except PayloadError:
                refused += 1
                continue
            assert int((found != 0).sum()) == 20  # a sign or a place is another one
    assert refused > len(data)  # of all bits, those that make places too many or too few
