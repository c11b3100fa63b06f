"""The codec ``quantised`` against a slow restatement of QSGD, and against its formula of bytes."""

import math
import struct
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core.base import seeding
from fedx_core.base.errors import PayloadError
from fedx_core.codec.quantised import Codec, dequantise, quantise


def random(seed: int = 1) -> torch.Generator:
    return seeding.torch_generator(seed)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rounding_is_qsgds_value_by_value(data: Any) -> None:
    s = data.draw(st.sampled_from([1, 2, 3, 7, 100]))
    bucket = data.draw(st.sampled_from([0, 1, 4, 5, 50]))
    wide = st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1e-30, -3e4])
    drawn = data.draw(st.lists(wide, min_size=1, max_size=12))
    norms, level = quantise(torch.tensor(drawn), s, bucket, random())
    size = bucket or len(drawn)
    rows = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    draws = torch.rand((len(rows), size), generator=random(), dtype=torch.float64)
    for i, row in enumerate(rows):
        norm = math.sqrt(sum(v * v for v in row))
        assert float(norms[i]) == pytest.approx(norm, rel=1e-6)
        for j, v in enumerate(row):
            a = s * abs(v) / float(norms[i]) if norm else 0.0
            wanted = min(math.floor(a) + (float(draws[i, j]) < a - math.floor(a)), s)
            assert int(level[i * size + j]) == math.copysign(wanted, v)
    assert level.shape == (len(drawn),)


@pytest.mark.parametrize(("s", "bucket"), [(1, 0), (2, 3), (7, 0), (127, 4)])
def test_the_mean_of_what_is_sent_is_the_change(s: int, bucket: int) -> None:
    draws = 20_000
    v = torch.tensor([0.3, -1.7, 0.0, 0.02, 2.5, -0.4], dtype=torch.float64).float()
    generator = random()
    total, squares = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for _ in range(draws // 100):
        # Copies of v in buckets of their own are draws of their own.
        if bucket:
            copies = v.repeat(100)
            sent = dequantise(*quantise(copies, s, bucket, generator), s, bucket).reshape(100, 6)
        else:
            sent = dequantise(*quantise(v.repeat(100), s, 6, generator), s, 6).reshape(100, 6)
        total += sent.double().sum(0)
        squares += sent.double().square().sum(0)
    mean = total / draws
    deviation = (squares / draws - mean.square()).clamp(min=0).sqrt() / math.sqrt(draws)
    assert ((mean - v.double()).abs() <= 4.5 * deviation + 1e-6).all()


def test_the_noise_is_no_larger_than_qsgds_bound() -> None:
    v = torch.randn(4096, generator=random(3))
    for s, bucket in ((7, 0), (7, 512), (127, 0), (127, 64)):
        d = bucket or 4096
        bound = min(d / s**2, math.sqrt(d) / s)  # QSGD, lemma 3.1: of the squared norm
        sent = dequantise(*quantise(v, s, bucket, random(4)), s, bucket)
        noise = float((sent - v).square().sum() / v.square().sum())
        assert 0 < noise < 1.1 * bound


def test_nothing_to_send_is_zero() -> None:
    norms, level = quantise(torch.zeros(5), 7, 2, random())
    assert not norms.any()
    assert not level.any()


@pytest.mark.parametrize(("levels", "bucket"), [(1, 0), (7, 512), (127, 0), (5, 3)])
def test_bytes_are_those_of_the_formula(levels: int, bucket: int) -> None:
    sizes = [1, 700, 0, 64]
    bits = 1 + math.ceil(math.log2(levels + 1))
    norms = sum(math.ceil(d / bucket) if bucket else min(d, 1) for d in sizes)
    values = {f"model/{d}": torch.randn(d, generator=random(d)) for d in sizes}
    data, _ = Codec(levels=levels, bucket=bucket).compress(values, 1)
    assert len(data) == 4 * norms + sum(math.ceil(d * bits / 8) for d in sizes)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_norm_that_can_not_be_is_refused(bad: float) -> None:
    codec = Codec(levels=1, bucket=0)
    data, _ = codec.compress({"model/w": torch.ones(4)}, 1)
    forged = bytearray(data)
    struct.pack_into("<f", forged, 0, bad)
    with pytest.raises(PayloadError, match="an impossible norm"):
        codec.expand(memoryview(forged), {"model/w": 4})
