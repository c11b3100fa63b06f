"""The frame around every payload, and the values in it.

A payload is a header of 64 bytes and raw little-endian values in the schema's order:

    offset  0  magic ``FEDX``            4 bytes
            4  protocol version          uint16
            6  reserved, zero            uint16
            8  codec name, padded        8 bytes
           16  schema digest             32 bytes
           48  body length               uint64
           56  CRC-32 of the body        uint32
           60  reserved, zero            uint32

No pickle and no JSON. The receiver knows how long a payload can be before it fetches one, and how
many values it holds before it reads one. Booleans travel as bits.
"""

import math
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedx_core.base.errors import PayloadError, SchemaError, TooBigError, VersionError
from fedx_core.base.state import Payload
from fedx_core.pruning.masks import pack, unpack
from fedx_core.pruning.structure import Cut
from fedx_core.wire.messages import PROTOCOL, Entry, Ref, Schema

Buffer = bytes | bytearray | memoryview

MAGIC = b"FEDX"
HEADER = struct.Struct("<4sHH8s32sQII")

_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.float32": np.dtype("<f4"),
    "torch.float64": np.dtype("<f8"),
    "torch.float16": np.dtype("<f2"),
    "torch.int64": np.dtype("<i8"),
    "torch.int32": np.dtype("<i4"),
    "torch.int8": np.dtype("<i1"),
    "torch.uint8": np.dtype("<u1"),
}

assert sys.byteorder == "little", "payloads are raw little-endian values"


def lengths(schema: Schema, entries: Iterable[Entry] | None = None) -> tuple[int, int]:
    """Return the fewest and the most bytes of a lossless payload, with the header.

    They are one number unless senders choose what they send (``Schema.flips``).

    Args:
        schema: of the payload.
        entries: those of it that are meant; None for all.
    """
    least = most = HEADER.size
    for entry in schema.entries if entries is None else entries:
        if entry.name in schema.flips:
            most += _bytes(entry, math.prod(entry.shape))
        else:
            least += _length(entry, schema)
            most += _length(entry, schema)
    return least, most


def require_length(ref: Ref, wanted: tuple[int, int]) -> None:
    """Check the length that a payload is said to have, before it is fetched.

    Args:
        ref: of the payload.
        wanted: the fewest and the most bytes that its codec makes of its schema.

    Raises:
        TooBigError: it is longer than any such payload.
        PayloadError: it is shorter.
    """
    least, most = wanted
    if not least <= ref.size <= most:
        kind = TooBigError if ref.size > most else PayloadError
        said = f"{least}" if least == most else f"{least} to {most}"
        raise kind(f"{ref.key!r} is said to have {ref.size} bytes, wanted {said}; not fetched")


def encode(payload: Payload, schema: Schema, codec: str) -> Buffer:
    """Frame the values that the schema keeps.

    Raises:
        SchemaError: the payload's names, shapes or dtypes are not the schema's.
    """
    require_entries(payload, schema)
    return framed(written(payload, schema, schema.entries), schema, codec)


def decode(data: Buffer, schema: Schema, codec: str) -> Payload:
    """Check a frame and read its values; what did not travel is zero.

    Raises:
        PayloadError: too short, foreign, of another length, or its checksum is wrong.
        VersionError: written by another protocol version.
        SchemaError: written for another schema or by another codec.
    """
    payload, rest = read(body(data, schema, codec, lengths(schema)), schema, schema.entries)
    if len(rest):
        raise PayloadError(f"payload is corrupt: {len(rest)} bytes follow its last entry")
    return payload


def require_entries(payload: Payload, schema: Schema) -> None:
    """Check that a payload has a schema's entries, in its order.

    Raises:
        SchemaError: it has others.
    """
    if list(payload) != [entry.name for entry in schema.entries]:
        odd = sorted(set(payload) ^ {entry.name for entry in schema.entries})
        raise SchemaError(f"payload and schema differ in {odd[:3] or 'the order of entries'}")


def framed(data: bytearray, schema: Schema, codec: str) -> Buffer:
    """Fill in the header of a frame, for which its first bytes are free."""
    HEADER.pack_into(
        data, 0, MAGIC, PROTOCOL, 0, _tag(codec), schema.digest,
        len(data) - HEADER.size, zlib.crc32(memoryview(data)[HEADER.size :]), 0,
    )  # fmt: skip
    return data


def body(data: Buffer, schema: Schema, codec: str, wanted: tuple[int, int]) -> memoryview:
    """Check a frame, and return what it holds.

    Args:
        data: the frame.
        schema: that it shall be of.
        codec: name of the codec that shall have written it.
        wanted: the fewest and the most bytes that it may have.

    Raises:
        PayloadError: too short, foreign, of another length, or its checksum is wrong.
        VersionError: written by another protocol version.
        SchemaError: written for another schema or by another codec.
    """
    if len(data) < HEADER.size:
        raise PayloadError(f"a payload of {len(data)} bytes is shorter than its header; truncated?")
    magic, protocol, low, name, digest, length, checksum, high = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PayloadError(f"not a FedX payload: it begins with {magic!r}")
    if protocol != PROTOCOL:
        raise VersionError(
            f"payload of protocol {protocol}, this is {PROTOCOL}; run one version everywhere"
        )
    if low or high:
        raise PayloadError("payload is corrupt: a reserved byte of its header is set")
    if name != _tag(codec):
        raise SchemaError(f"payload of codec {name.rstrip(bytes(1))!r}, wanted {codec!r}")
    if digest != schema.digest:
        raise SchemaError(
            "payload of another schema: model, mask or method differ between sender and receiver"
        )
    least, most = wanted
    if len(data) != HEADER.size + length or not least <= len(data) <= most:
        said = f"{least}" if least == most else f"{least} to {most}"
        raise PayloadError(
            f"payload of {len(data)} bytes, of which its header says {HEADER.size + length}, "
            f"wanted {said}; truncated or padded"
        )
    view = memoryview(data)[HEADER.size :]
    if zlib.crc32(view) != checksum:
        raise PayloadError("payload is corrupt: its checksum does not match; fetch it again")
    return view


def written(payload: Payload, schema: Schema, entries: Sequence[Entry]) -> bytearray:
    """Write some entries' kept values one behind the other, behind the room for a header."""
    settled = [schema.settled(entry, payload) for entry in entries]
    sizes = [_length(entry, known) for entry, known in zip(entries, settled, strict=True)]
    data = bytearray(HEADER.size + sum(sizes))
    view = memoryview(data)
    offset = HEADER.size
    for entry, known, size in zip(entries, settled, sizes, strict=True):
        _write(payload[entry.name], entry, known, view[offset : offset + size])
        offset += size
    return data


def read(view: memoryview, schema: Schema, entries: Sequence[Entry]) -> tuple[Payload, memoryview]:
    """Undo :func:`written`: the entries, and the bytes behind them.

    Raises:
        PayloadError: there are too few bytes.
    """
    payload: Payload = {}
    offset = 0
    for entry in entries:
        known = schema.settled(entry, payload)
        size = _length(entry, known)
        if offset + size > len(view):
            raise PayloadError(f"payload is corrupt: it ends before {entry.name!r} does")
        payload[entry.name] = _read(entry, known, view[offset : offset + size])
        offset += size
    return payload, view[offset:]


def kept_values(value: Tensor, entry: Entry, schema: Schema) -> Tensor:
    """Return an entry's values that travel, in one row."""
    require_kind(value, entry)
    kept = schema.support.get(entry.name)
    return (value if kept is None else _select(value, kept)).reshape(-1)


def in_place(values: Tensor, entry: Entry, schema: Schema) -> Tensor:
    """Undo :func:`kept_values`; what did not travel is zero."""
    kept = schema.support.get(entry.name)
    return values.reshape(entry.shape) if kept is None else _scatter(values, kept, entry.shape)


def require_kind(value: Tensor, entry: Entry) -> None:
    """Check a tensor's dtype and shape.

    Raises:
        SchemaError: they are not its entry's.
    """
    if str(value.dtype) != entry.dtype or tuple(value.shape) != entry.shape:
        raise SchemaError(
            f"entry {entry.name!r} is {value.dtype} {tuple(value.shape)}, "
            f"wanted {entry.dtype} {entry.shape}"
        )


def _tag(codec: str) -> bytes:
    return codec.encode()[:8].ljust(8, b"\0")


def _length(entry: Entry, schema: Schema) -> int:
    return _bytes(entry, schema.kept(entry))


def _bytes(entry: Entry, values: int) -> int:
    if entry.dtype == "torch.bool":
        return (values + 7) // 8
    if entry.dtype not in _DTYPES:
        raise SchemaError(f"entry {entry.name!r} has dtype {entry.dtype}, which has no wire format")
    return values * _DTYPES[entry.dtype].itemsize


def _write(value: Tensor, entry: Entry, schema: Schema, view: memoryview) -> None:
    require_kind(value, entry)
    value = value.detach().cpu()
    if entry.name in schema.support:
        value = _select(value, schema.support[entry.name])
    if entry.dtype == "torch.bool":
        view[:] = pack(value)
    elif view:
        target = np.frombuffer(view, dtype=_DTYPES[entry.dtype])
        torch.from_numpy(target).view(value.shape).copy_(value)


def _read(entry: Entry, schema: Schema, view: memoryview) -> Tensor:
    count = schema.kept(entry)
    if entry.dtype == "torch.bool":
        values = unpack(bytes(view), (count,))
    else:
        values = torch.from_numpy(np.frombuffer(view, dtype=_DTYPES[entry.dtype]).copy())
    if entry.name not in schema.support:
        return values.reshape(entry.shape)
    return _scatter(values, schema.support[entry.name], entry.shape)


def _select(value: Tensor, kept: Tensor) -> Tensor:
    # Rows and columns need no mask of the tensor's size.
    cut = _cut(kept, tuple(value.shape))
    return value[kept.expand(value.shape)] if cut is None else cut.take(value)


def _scatter(values: Tensor, kept: Tensor, shape: tuple[int, ...]) -> Tensor:
    whole = values.new_zeros(shape)
    cut = _cut(kept, shape)
    if cut is None:
        whole[kept.expand(shape)] = values
    else:
        cut.put_(values, whole)
    return whole


def _cut(kept: Tensor, shape: tuple[int, ...]) -> Cut | None:
    """Return the kept rows and columns where a support is made of such, else None."""
    if not shape:
        return None
    if not bool(kept.any()):
        return Cut(rows=torch.zeros(shape[0], dtype=torch.bool))
    if kept.numel() != kept.shape[:2].numel():
        return None
    table = kept.reshape(len(kept), -1)
    rows, columns = table.any(1), table.any(0)
    if not torch.equal(table, rows[:, None] & columns):
        return None
    wide = kept.ndim > 1 and len(columns) == shape[1]
    return Cut(rows if len(rows) == shape[0] else None, columns if wide else None)
