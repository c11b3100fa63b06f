"""Safetensors files, looked through before they are loaded.

The format runs nothing, and its library sees to it that no tensor reaches outside the file. It does
take doubled names, dimensions of 2^40, names such as ``../../x`` and headers of 100 MB that take a
minute to read. So the header is read here first: bounded, unambiguous, each byte of the file owned
by exactly one tensor.

    offset  0  length n of the header      uint64
            8  header, JSON                n bytes: name → dtype, shape, data_offsets
        8 + n  values, little-endian       as the offsets say
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedx_core.base import strict_json
from fedx_core.base.errors import PayloadError, TooBigError
from fedx_core.base.state import StateDict, require_same_layout

Buffer = bytes | bytearray | memoryview

HEADER_BASE, HEADER_PER_TENSOR, MOST_TENSORS = 64 * 1024, 256, 16_384
"""Bytes a header may have, and as many more a tensor; and tensors."""

LARGEST_HEADER = HEADER_BASE + HEADER_PER_TENSOR * MOST_TENSORS

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_LONGEST_NAME, _LARGEST_RANK, _LARGEST_SIDE = 200, 8, 2**31


def is_pickle(path: Path) -> bool:
    """Whether a file is what ``torch.save`` writes, by how it begins."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith((b"PK\3\4", b"\x80"))
    except OSError:
        return False


def foreign(path: Path) -> str:
    """Say of a file that is no safetensors what it is, and how to come to one."""
    if not is_pickle(path):
        return f"{path} is no .safetensors file; name a run, or such a file"
    made = path.with_name(f"{path.stem}-converted.safetensors")
    return (
        f"{path} holds a pickle, which may run anything when it is loaded, so it is not; if you "
        'trust it, convert it: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path}', weights_only=True), '{made}')\" and start a run from it "
        f"with --set model.weights={made}"
    )


@dataclass(frozen=True)
class _Place:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says that it holds.

    Args:
        metadata: strings by name.
        size: bytes of the whole file.
    """

    metadata: Mapping[str, str]
    size: int
    _places: Mapping[str, _Place]
    _body: int

    @property
    def layout(self) -> StateDict:
        """Names, shapes and dtypes, as tensors without values."""
        return {
            name: torch.empty(place.shape, dtype=place.dtype, device="meta")
            for name, place in self._places.items()
        }


def load(data: Buffer) -> tuple[StateDict, Mapping[str, str]]:
    """Read a file's tensors and metadata.

    Raises:
        TooBigError: its header is larger than its tensors need.
        PayloadError: it is damaged, or no file that FedX would write or could use.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_checked

    header = _header(data[:8], data[8 : 8 + _length(data[:8])], len(data))
    for name, place in header._places.items():
        if place.dtype is torch.bool and place.end > place.begin:
            span = memoryview(data)[header._body + place.begin : header._body + place.end]
            if np.frombuffer(span, dtype=np.uint8).max() > 1:
                raise PayloadError(f"entry {name!r} is BOOL and holds more than 0 and 1")
    try:
        return load_checked(bytes(data)), header.metadata
    except (SafetensorError, ValueError) as error:
        raise PayloadError(f"no safetensors file: {error}") from error


def header_of(path: Path) -> Header:
    """Read what a file says that it holds, and none of its values.

    Raises:
        OSError: it can't be read.
        TooBigError: its header is larger than its tensors need.
        PayloadError: it is damaged, or no file that FedX would write or could use.
    """
    with path.open("rb") as file:
        start = file.read(8)
        return _header(start, file.read(_length(start)), path.stat().st_size)


def load_file(path: Path, wanted: Mapping[str, torch.Tensor]) -> StateDict:
    """Read a file whose tensors are known: nothing is loaded unless all of them are there.

    Args:
        path: of the file.
        wanted: tensors of the same names, shapes and dtypes; their values do not matter.

    Raises:
        OSError: it can't be read.
        SchemaError: other names, shapes or dtypes.
        PayloadError: as :func:`load`.
    """
    header = header_of(path)
    require_same_layout(wanted, header.layout)
    with path.open("rb") as file:
        tensors, _ = load(file.read(header.size))
    require_same_layout(wanted, tensors)  # somebody may have replaced it since
    return tensors


def _length(start: Buffer) -> int:
    if len(start) < 8:
        raise PayloadError(f"no safetensors file: {len(start)} bytes; truncated?")
    length = int.from_bytes(start, "little")
    if length > LARGEST_HEADER:
        raise TooBigError(
            f"no safetensors file of ours: a header of {length} bytes, wanted {LARGEST_HEADER} at "
            "most"
        )
    return length


def _header(start: Buffer, raw: Buffer, size: int) -> Header:
    length = _length(start)
    if len(raw) != length or raw[:1] != b"{":
        raise PayloadError("no safetensors file: its header is cut off or no JSON object")
    found = strict_json.loads(raw, LARGEST_HEADER)
    if not isinstance(found, dict):
        raise PayloadError("no safetensors file: its header is no JSON object")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise PayloadError("a safetensors file's metadata are not all text")
    if len(found) > MOST_TENSORS or length > HEADER_BASE + HEADER_PER_TENSOR * len(found):
        raise TooBigError(
            f"{len(found)} tensors in a safetensors header of {length} bytes, wanted "
            f"{MOST_TENSORS} and {HEADER_BASE} + {HEADER_PER_TENSOR} each at most"
        )
    places = {name: _place(name, value) for name, value in found.items()}
    reached = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != reached:
            raise PayloadError(f"entry {name!r} begins at {place.begin}, wanted {reached}")
        reached = place.end
    if 8 + length + reached != size:
        raise PayloadError(
            f"{size} bytes, wanted {8 + length + reached} by the header; truncated or padded"
        )
    return Header(metadata, size, places, 8 + length)


def _place(name: str, value: Any) -> _Place:
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise PayloadError(f"impossible name {name[:60]!r} of a tensor")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise PayloadError(f"entry {name!r} does not say dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or dtype not in _DTYPES:
        raise PayloadError(f"entry {name!r} has a dtype that FedX does not use: {dtype!r:.40}")
    if not _are_whole(shape, _LARGEST_SIDE) or len(shape) > _LARGEST_RANK:
        raise PayloadError(f"entry {name!r} has an impossible shape: {shape!r:.60}")
    if not _are_whole(offsets, 2**62) or len(offsets) != 2:
        raise PayloadError(f"entry {name!r} has impossible offsets: {offsets!r:.60}")
    begin, end = offsets
    if math.prod(side or 1 for side in shape) >= 2**62 or end - begin != (
        math.prod(shape) * _DTYPES[dtype].itemsize
    ):
        raise PayloadError(f"entry {name!r} has {end - begin} bytes for {dtype} {shape}")
    return _Place(_DTYPES[dtype], tuple(shape), begin, end)


def _are_whole(values: Any, below: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < below for v in values)
