"""JSON from outside, bounded before it is read and with one meaning only; and all that we write.

Python's reader takes what another one reads differently, or what nobody meant: the last of two
equal keys, NaN and Infinity, numbers that overflow, halves of surrogate pairs, a thousand open
brackets. All of these are refused here.

Python's writer writes what is no JSON: NaN and Infinity, on which other readers stop. Here a number
that is not finite becomes null. Nothing in FedX writes JSON in another way.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from fedx_core.base.errors import PayloadError, TooBigError

Buffer = bytes | bytearray | memoryview

DEPTH = 32
"""Brackets that may be open at once."""

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(data: Buffer, limit: int, *, finite: bool = True) -> Any:
    """Read one JSON value.

    Args:
        data: UTF-8.
        limit: bytes that it may have.
        finite: refuse NaN and infinities too; what earlier versions wrote may hold them.

    Raises:
        TooBigError: it is longer.
        PayloadError: it is no JSON, nested too deeply, or ambiguous.
    """
    if len(data) > limit:
        raise TooBigError(f"{len(data)} bytes of JSON, wanted {limit} at most")
    try:
        text = str(data, "utf-8")
        _check_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_finite if finite else None,
            parse_constant=_refuse_constant if finite else None,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except PayloadError:
        raise
    except ValueError as error:
        raise PayloadError(f"this is no JSON: {error}") from error
    return value


def dumps(
    value: Any,
    *,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Write one JSON value; see :func:`json.dumps` for the arguments.

    Args:
        value: of dicts, lists, texts, numbers, booleans and None; NaN and infinities become null.
        indent: spaces a level.
        separators: between items, and behind keys.
        sort_keys: for equal bytes of equal values.
        ensure_ascii: escape what is not ASCII.
        default: turns anything else into one of these.
    """

    def written(plain: Any) -> str:
        return json.dumps(
            plain, indent=indent, separators=separators, sort_keys=sort_keys,
            ensure_ascii=ensure_ascii, default=default, allow_nan=False,
        )  # fmt: skip

    try:
        return written(value)
    except ValueError:  # hardly ever, so that what is whole is looked at once
        return written(_with_gaps(value))


def _with_gaps(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _with_gaps(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_gaps(item) for item in value]
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEPTH:
            raise PayloadError(f"JSON with more than {DEPTH} open brackets is not read")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PayloadError(f"key {twice[:40]!r} stands twice in one JSON object")
    return found


def _whole(text: str) -> int:
    # No more digits than 64 bits have, so that it becomes a float or a tensor without complaint.
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise PayloadError(f"a whole number of {len(text)} digits in JSON, wanted 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise PayloadError(f"number {text[:40]} in JSON is infinite")
    return value


def _refuse_constant(name: str) -> float:
    raise PayloadError(f"{name} in JSON; wanted finite numbers")
