"""JSON from outside: what has two meanings or none is refused, all else is read as Python reads."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedx_core.base.errors import PayloadError, TooBigError
from fedx_core.base.strict_json import DEPTH, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab[{"\\'), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(value=VALUES, ascii_only=st.booleans())
def test_what_python_writes_comes_back(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert loads(data, len(data)) == value


@settings(max_examples=300, deadline=None)
@given(data=st.text('[]{}",:\\u0d8a1e-.NaItrufls ', max_size=40))
def test_what_is_read_is_what_python_reads_and_all_else_is_refused(data: str) -> None:
    try:
        found = loads(data.encode(), 1000)
    except PayloadError:
        return
    assert found == json.loads(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a":1,"b":{"c":1,"c":1}}', "'c' stands twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "1e999.*infinite"),
        (b"18446744073709551616", "64 bits"),
        (b"-9223372036854775809", "64 bits"),
        (b"1" * 10_000, "10000 digits"),
        (b'"\\ud800"', "surrogates"),
        (b'"\xed\xa0\x80"', "no JSON"),
        (b"\xef\xbb\xbf1", "no JSON"),
        ("1".encode("utf-16"), "no JSON"),
        (b"{}{}", "no JSON"),
        (b"", "no JSON"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "open brackets"),
        (b"[" * 500_000, "open brackets"),
    ],
)
def test_json_of_two_meanings_or_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        loads(data, 1_000_000)


def test_brackets_in_text_open_nothing() -> None:
    text = '[{"\\\\' * 100
    assert loads(json.dumps(text).encode(), 10_000) == text
    assert loads(b"[" * DEPTH + b"]" * DEPTH, 100)


def test_more_than_the_limit_is_not_looked_at() -> None:
    with pytest.raises(TooBigError, match="11 bytes of JSON, wanted 10"):
        loads(b"[" * 11, 10)


def test_what_the_server_wrote_itself_may_hold_nan() -> None:
    found = loads(b"[NaN,1e999]", 100, finite=False)
    assert math.isnan(found[0])
    assert math.isinf(found[1])
