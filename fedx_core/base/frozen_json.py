"""Frozen dataclasses as JSON and back: equal values, equal bytes; what comes back is checked."""

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from fedx_core.base import strict_json
from fedx_core.base.errors import PayloadError

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Turn frozen messages into dicts, lists and numbers that JSON takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def canonical(value: Any) -> bytes:
    """Encode plain values as JSON with sorted keys: equal values, equal bytes.

    A number that is not finite becomes null.
    """
    return strict_json.dumps(plain(value), sort_keys=True, separators=(",", ":")).encode()


def parse(kind: type[T], value: Any, *, gaps: bool = False) -> T:
    """Undo :func:`plain` for one message type.

    Args:
        kind: of message.
        value: plain.
        gaps: take null for a number that is NaN, as :func:`canonical` writes one; only for what we
            have written ourselves.

    Raises:
        PayloadError: a field is missing, unknown or of the wrong type.
    """
    return typing.cast(T, _parse(kind, value, kind.__name__, gaps))


def _parse(kind: Any, value: Any, path: str, gaps: bool) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise PayloadError(f"{path}: wanted an object, got {type(value).__name__}")
        hints, required = _fields(typing.cast(Any, kind))
        if unknown := sorted(set(value) - set(hints)):
            raise PayloadError(f"{path}: unknown field {reprlib.repr(unknown[0])}")
        if missing := sorted(required - set(value)):
            raise PayloadError(f"{path}: field {missing[0]!r} is missing")
        return typing.cast(Any, kind)(
            **{n: _parse(hints[n], v, f"{path}.{n}", gaps) for n, v in value.items()}
        )
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            try:
                return _parse(option, value, path, gaps)
            except PayloadError:
                continue
        raise PayloadError(f"{path}: {reprlib.repr(value)} fits none of {kind}")
    if origin is Literal:
        if value not in arguments:
            raise PayloadError(
                f"{path}: {reprlib.repr(value)} is none of {', '.join(map(str, arguments))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise PayloadError(f"{path}: wanted a list, got {type(value).__name__}")
        if arguments[-1] is Ellipsis:
            return tuple(_parse(arguments[0], v, f"{path}[{i}]", gaps) for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise PayloadError(f"{path}: wanted {len(arguments)} values, got {len(value)}")
        return tuple(
            _parse(a, v, f"{path}[{i}]", gaps)
            for i, (a, v) in enumerate(zip(arguments, value, strict=True))
        )
    if origin is list:
        if not isinstance(value, list):
            raise PayloadError(f"{path}: wanted a list, got {type(value).__name__}")
        return [_parse(arguments[0], v, f"{path}[{i}]", gaps) for i, v in enumerate(value)]
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise PayloadError(f"{path}: wanted an object, got {type(value).__name__}")
        return {k: _parse(arguments[1], v, f"{path}.{k}", gaps) for k, v in value.items()}
    if kind is float and value is None and gaps:
        return math.nan
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise PayloadError(f"{path}: a number too large for any float") from None
    if kind is type(None) and value is None:
        return None
    if kind in (int, str, bool) and type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", kind)
    raise PayloadError(f"{path}: wanted {wanted}, got {reprlib.repr(value)}")


@cache  # annotations are strings to be evaluated, which takes longer than to parse a report
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the type of each field of a message, and which have no default."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {f.name: hints[f.name] for f in fields}, frozenset(
        f.name for f in fields if f.default is MISSING and f.default_factory is MISSING
    )
