"""The frame around every payload, and what a codec is.

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
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fedx_core.base import state
from fedx_core.base.errors import PayloadError, SchemaError, TooBigError, VersionError
from fedx_core.base.state import Payload
from fedx_core.pruning.masks import pack, unpack
from fedx_core.pruning.structure import Cut, Mode
from fedx_core.wire import domains
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


class Codec(Protocol):
    """A wire format, or a compressor with memory.

    A lossy codec is given *changes* of what the receiver holds (:mod:`fedx_core.clients.exchange`),
    and what it fails to send comes back to it as the residual of the next time.
    """

    mode: ClassVar[Mode | None]
    """Which support its schemas carry; None for whole tensors."""
    lossy: ClassVar[bool]
    """Whether what is decoded only comes near to what was encoded."""

    def encode(
        self, payload: Payload, schema: Schema, residual: Payload, seed: int
    ) -> tuple[Buffer, Payload]:
        """Turn a payload into the bytes that travel.

        Args:
            payload: in the schema's order.
            schema: that both sides derive.
            residual: what was not sent the last time; empty at first, and for lossless codecs.
            seed: of random rounding.

        Returns:
            The bytes, and what they leave out.
        """

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`; values that did not travel are zero."""

    def lengths(self, schema: Schema) -> tuple[int, int]:
        """Return the fewest and the most bytes that :meth:`encode` makes of a schema's payloads."""


@dataclass(frozen=True)
class Lossless:
    """What a schema keeps, as it is: the base of all codecs that lose nothing."""

    name: ClassVar[str]
    mode: ClassVar[Mode | None] = None
    lossy: ClassVar[bool] = False

    def encode(
        self, payload: Payload, schema: Schema, residual: Payload, seed: int
    ) -> tuple[Buffer, Payload]:
        """Frame the values that the schema keeps; nothing is left out."""
        return encode(payload, schema, self.name), {}

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode`; values that did not travel are zero."""
        return decode(data, schema, self.name)

    def lengths(self, schema: Schema) -> tuple[int, int]:
        """Return one number twice, unless senders choose what they send (``Schema.flips``)."""
        return lengths(schema)


@dataclass(frozen=True)
class Whole(Lossless):
    """What a lossy codec's receiver is sent where no change will do."""

    name: ClassVar[str] = "whole"


@dataclass(frozen=True, kw_only=True)
class Lossy(ABC):
    """Fewer bits for each value: the base of all compressors.

    A file names its compressor, and says how values become bytes, how those become values again and
    how many they are. Entries of float32 whose values may be anything are compressed
    (:func:`is_compressed`); all others, such as masks and BatchNorm's statistics, travel as they
    are, before them.

    Args:
        feedback: add what was not sent to what is sent the next time (error feedback; S. P.
            Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019,
            https://arxiv.org/abs/1901.09847).
    """

    name: ClassVar[str]
    mode: ClassVar[Mode | None] = "slices"
    lossy: ClassVar[bool] = True

    feedback: bool = True

    @abstractmethod
    def compress(
        self, values: Mapping[str, Tensor], seed: int
    ) -> tuple[bytes | bytearray, Mapping[str, Tensor]]:
        """Turn values into bytes.

        Args:
            values: float32 (n,) by entry; n may be 0.
            seed: of random rounding.

        Returns:
            The bytes, and what :meth:`expand` makes of them, to the bit.
        """

    @abstractmethod
    def expand(self, data: memoryview, counts: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Undo :meth:`compress`; the bytes may be anybody's.

        Args:
            data: whose number is one of :meth:`sizes`.
            counts: values by entry; as many come out, whatever the bytes say.

        Raises:
            PayloadError: :meth:`compress` makes no such bytes.
        """

    @abstractmethod
    def sizes(self, counts: Sequence[int]) -> tuple[int, int]:
        """Return the fewest and the most bytes of so many values an entry."""

    def encode(
        self, payload: Payload, schema: Schema, residual: Payload, seed: int
    ) -> tuple[Buffer, Payload]:
        """Compress what the schema keeps; see :class:`Codec`.

        Raises:
            SchemaError: the payload's names, shapes or dtypes are not the schema's.
            NonFiniteError: a value is NaN or infinite.
        """
        require_entries(payload, schema)
        entries = {e.name: (e, schema.settled(e, payload)) for e in schema.entries}
        values = {}
        for name, (entry, known) in entries.items():
            if is_compressed(entry):
                value = kept_values(payload[name], entry, known)
                values[name] = value if name not in residual else value + kept_values(
                    residual[name], entry, known
                )  # fmt: skip
        state.require_finite(values, "what is to be sent")
        data, received = self.compress(values, seed)
        left: Payload = {}
        if self.feedback:
            left = {n: in_place(v - received[n], *entries[n]) for n, v in values.items()}
        rest = written(payload, schema, [e for e in schema.entries if not is_compressed(e)])
        return framed(rest + data, schema, self.name), left

    def decode(self, data: Buffer, schema: Schema) -> Payload:
        """Undo :meth:`encode` but for what it leaves out; see :class:`Codec`."""
        view = body(data, schema, self.name, self.lengths(schema))
        payload, coded = read(view, schema, [e for e in schema.entries if not is_compressed(e)])
        entries = {e.name: (e, schema.settled(e, payload)) for e in schema.entries}
        counts = {n: known.kept(e) for n, (e, known) in entries.items() if is_compressed(e)}
        least, most = self.sizes(list(counts.values()))
        if not least <= len(coded) <= most:
            raise PayloadError(f"{len(coded)} compressed bytes, wanted {least} to {most}")
        values = self.expand(coded, counts)
        return {
            name: in_place(values[name], *entry) if name in values else payload[name]
            for name, entry in entries.items()
        }

    def lengths(self, schema: Schema) -> tuple[int, int]:
        """Return the fewest and the most bytes of a schema's payloads."""
        least, most = lengths(schema, [e for e in schema.entries if not is_compressed(e)])
        coded = [entry for entry in schema.entries if is_compressed(entry)]
        fewest = [0 if e.name in schema.flips else schema.kept(e) for e in coded]
        every = [math.prod(e.shape) if e.name in schema.flips else schema.kept(e) for e in coded]
        return least + self.sizes(fewest)[0], most + self.sizes(every)[1]


def is_compressed(entry: Entry) -> bool:
    """Tell whether a lossy codec may change an entry's values a little."""
    anything = entry.domain in (None, domains.WEIGHT)
    return entry.dtype == "torch.float32" and anything and not entry.exact


def whole(codec: Codec) -> Codec:
    """Return the lossless codec for the same schemas: itself, if it loses nothing."""
    return Whole() if codec.lossy else codec


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
