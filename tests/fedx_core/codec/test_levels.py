"""Whole numbers in as few bits as their range needs: nothing is lost, and nothing is clipped."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core.base.errors import PayloadError
from fedx_core.codec import _levels


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_levels_come_back_from_the_bytes_of_the_formula(data: Any) -> None:
    levels = data.draw(st.sampled_from([1, 2, 3, 4, 7, 8, 15, 100, 127, 128, 1000, 32767]))
    drawn = data.draw(st.lists(st.integers(-levels, levels), max_size=40))
    values = torch.tensor(drawn, dtype=torch.int16)
    sent = _levels.pack(values, levels)
    a_value = 1 + math.ceil(math.log2(levels + 1))  # a sign, and a level from 0 to s
    assert len(sent) == _levels.length(len(drawn), levels) == math.ceil(len(drawn) * a_value / 8)
    received = _levels.unpack(sent, len(drawn), levels)
    assert torch.equal(received, values)
    assert received.dtype == torch.int16


def test_bits_are_laid_out_as_written_down() -> None:
    sent = _levels.pack(torch.tensor([-3, 0, 3], dtype=torch.int16), 3)
    assert sent == bytes([0b000_011_11, 0b0_0000000])


@pytest.mark.parametrize("value", [8, -8, 32767, -32768])
def test_a_level_out_of_range_is_refused_before_it_travels(value: int) -> None:
    with pytest.raises(PayloadError, match=f"{value}.*wanted -7 to 7"):
        _levels.pack(torch.tensor([0, value, 3], dtype=torch.int16), 7)


def test_a_received_code_that_stands_for_no_level_is_refused() -> None:
    with pytest.raises(PayloadError, match="level of 4, wanted 3"):
        _levels.unpack(bytes([0b111_000_00]), 2, 3)  # 7 would be level 4
    with pytest.raises(PayloadError, match="padding bit"):
        _levels.unpack(bytes([0b110_000_01]), 2, 3)
