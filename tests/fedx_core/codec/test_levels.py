"""Whole numbers in as few bits as their range needs: nothing is lost, and nothing is clipped."""

import math
import struct
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core import plugins
from fedx_core.codec.base import HEADER
from fedx_core.errors import PayloadError
from fedx_core.messages import Entry, Schema


def encoded(values: torch.Tensor, levels: int, codec: str = "dense") -> tuple[bytes, Schema]:
    schema = Schema((Entry("level/w", "torch.int16", tuple(values.shape), levels),))
    made = plugins.build("codec", codec, {}).encode({"level/w": values}, schema)
    return bytes(made), schema


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_levels_come_back_from_the_bytes_of_the_formula(data: Any) -> None:
    levels = data.draw(st.sampled_from([1, 2, 3, 4, 7, 8, 15, 100, 127, 128, 1000, 32767]))
    drawn = data.draw(st.lists(st.integers(-levels, levels), max_size=40))
    values = torch.tensor(drawn, dtype=torch.int16)
    sent, schema = encoded(values, levels, data.draw(st.sampled_from(plugins.names("codec"))))
    a_value = 1 + math.ceil(math.log2(levels + 1))  # a sign, and a level from 0 to s
    assert len(sent) == HEADER.size + math.ceil(len(drawn) * a_value / 8)
    name = sent[8:16].rstrip(b"\0").decode()
    received = plugins.build("codec", name, {}).decode(sent, schema)["level/w"]
    assert torch.equal(received, values)
    assert received.dtype == torch.int16


def test_bits_are_laid_out_as_written_down() -> None:
    sent, _ = encoded(torch.tensor([-3, 0, 3], dtype=torch.int16), 3)
    assert sent[HEADER.size :] == bytes([0b000_011_11, 0b0_0000000])


def test_only_kept_levels_travel() -> None:
    values = torch.tensor([[1, -2], [0, 0], [2, 1]], dtype=torch.int16)
    kept = torch.tensor([[True], [False], [True]])
    schema = Schema((Entry("level/w", "torch.int16", (3, 2), 2),), {"level/w": kept})
    codec = plugins.build("codec", "masked", {})
    sent = codec.encode({"level/w": values}, schema)
    assert len(sent) == HEADER.size + math.ceil(4 * 3 / 8)
    assert torch.equal(codec.decode(sent, schema)["level/w"], values)


@pytest.mark.parametrize("value", [8, -8, 32767, -32768])
def test_a_level_out_of_range_is_refused_before_it_travels(value: int) -> None:
    with pytest.raises(PayloadError, match=f"{value}.*wanted -7 to 7"):
        encoded(torch.tensor([0, value, 3], dtype=torch.int16), 7)


def forged(body: bytes, levels: int, count: int) -> tuple[bytes, Schema]:
    """Frame a body as a client would that does not keep to the rules."""
    sent, schema = encoded(torch.zeros(count, dtype=torch.int16), levels)
    header = bytearray(sent[: HEADER.size])
    struct.pack_into("<I", header, 56, zlib.crc32(body))
    return bytes(header) + body, schema


def test_a_received_code_that_stands_for_no_level_is_refused() -> None:
    decode = plugins.build("codec", "dense", {}).decode
    data, schema = forged(bytes([0b111_000_00]), 3, 2)  # 7 would be level 4
    with pytest.raises(PayloadError, match="level of 4, wanted 3"):
        decode(data, schema)
    data, schema = forged(bytes([0b110_000_01]), 3, 2)
    with pytest.raises(PayloadError, match="padding bit"):
        decode(data, schema)


def test_sender_and_receiver_must_agree_on_the_range() -> None:
    entries = [Entry("level/w", "torch.int16", (4,), levels) for levels in (0, 7, 5)]
    digests = {Schema((entry,)).digest for entry in entries}
    assert len(digests) == 3  # 5 and 7 take equally many bits
