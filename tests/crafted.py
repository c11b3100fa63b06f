"""Files that somebody made to do harm, each with the code of the error that refuses it."""

import gzip
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedx_core.base.frozen_json import canonical, plain
from fedx_core.models import catalogue
from fedx_core.record import checkpoint
from fedx_core.wire.frame import HEADER
from outside import (
    CHOSEN,
    EXAMPLES,
    JOB,
    MASK,
    REPORT,
    SCHEMAS,
    framed,
    plan,
    readers,
    ref,
    server_state,
    tensor_file,
)

CANARY = Path(tempfile.gettempdir()) / f"fedx-canary-{os.getpid()}"


class Harm:
    """What a pickle of this does where it is opened: it leaves a folder behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(CANARY),)


def pickled() -> bytes:
    return pickle.dumps({"fc.weight": Harm()})


def torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.ones(2)}, buffer)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([Harm()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", pickled())
        archive.writestr("bomb", bytes(10_000_000))
    return buffer.getvalue()


FOREIGN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "zeros": lambda: bytes(4096),
    "a pickle": pickled,
    "torch.save": torch_saved,
    "npz of objects": npz,
    "a zip with a bomb": zipped,
    "gzip": lambda: gzip.compress(bytes(1_000_000)),
    "an error page": lambda: b"<html><body>503 Service Unavailable</body></html>",
}

# A frame -----------------------------------------------------------------------------------------

DENSE = SCHEMAS["dense"]
SOUND = readers()["dense"].sound[0]
BODY = SOUND[HEADER.size :]


def with_value(offset: int, data: bytes) -> bytes:
    """Put bytes into the body, and frame it again."""
    return framed(DENSE, BODY[:offset] + data + BODY[offset + len(data) :])


# The body: 48 float32, int64, 3 float16, 4 bools in a byte, 5 float32.
COUNT, HALF, BOOLS = 192, 200, 206
NAN, INF = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))

FRAMES: dict[str, tuple[bytes, str]] = {
    "half a header": (SOUND[:63], "E_PAYLOAD"),
    "a header alone": (SOUND[:64], "E_PAYLOAD"),
    "a byte less": (SOUND[:-1], "E_PAYLOAD"),
    "a byte more": (SOUND + b"\0", "E_PAYLOAD"),
    "another magic": (framed(DENSE, BODY, magic=b"FEDY"), "E_PAYLOAD"),
    "a later protocol": (framed(DENSE, BODY, protocol=2), "E_VERSION"),
    "a reserved field": (framed(DENSE, BODY, low=1), "E_PAYLOAD"),
    "the other reserved field": (framed(DENSE, BODY, high=1), "E_PAYLOAD"),
    "another codec": (framed(DENSE, BODY, codec="sliced"), "E_SCHEMA"),
    "a codec with NUL inside": (framed(DENSE, BODY, codec="d\0ense"), "E_SCHEMA"),
    "another schema": (framed(DENSE, BODY, digest=bytes(32)), "E_SCHEMA"),
    "a length of 2^63": (framed(DENSE, BODY, length=2**63), "E_PAYLOAD"),
    "a length of 0": (framed(DENSE, BODY, length=0), "E_PAYLOAD"),
    "no values": (framed(DENSE, b""), "E_PAYLOAD"),
    "twice the values": (framed(DENSE, BODY * 2), "E_PAYLOAD"),
    "another checksum": (framed(DENSE, BODY, checksum=0), "E_PAYLOAD"),
    "NaN": (with_value(0, NAN), "E_NONFINITE"),
    "a signalling NaN": (with_value(8, b"\1\0\xa0\x7f"), "E_NONFINITE"),
    "infinity": (with_value(188, INF), "E_NONFINITE"),
    "infinities that cancel": (
        with_value(0, INF + struct.pack("<f", float("-inf"))),
        "E_NONFINITE",
    ),
    "NaN of 16 bits": (with_value(HALF, b"\xff\x7f"), "E_NONFINITE"),
    "a padding bit of bools": (with_value(BOOLS, b"\xb1"), "E_MASK"),
    "a frame, then a zip": (SOUND + zipped(), "E_PAYLOAD"),
    "a pickle in a frame": (framed(DENSE, pickled()), "E_PAYLOAD"),
}
CHOICES: dict[str, tuple[bytes, str]] = {
    "more promised than sent": (framed(CHOSEN, b"\x40", "sliced"), "E_PAYLOAD"),
    "more sent than promised": (framed(CHOSEN, b"\xb0" + bytes(12), "sliced"), "E_PAYLOAD"),
    "a padding bit of choices": (framed(CHOSEN, b"\xbf", "sliced"), "E_MASK"),
    "no choices": (framed(CHOSEN, b"", "sliced"), "E_PAYLOAD"),
}
MASKS: dict[str, tuple[bytes, str]] = {
    "half a mask": (framed(MASK, b"\xa8", "mask"), "E_PAYLOAD"),
    "a padding bit": (framed(MASK, b"\xa9\xaa", "mask"), "E_MASK"),
    "another model's mask": (
        framed(checkpoint.mask_schema("units", {"conv1": (6,)}), b"\xa8", "mask"),
        "E_SCHEMA",
    ),
    "indices instead of bits": (
        framed(MASK, struct.pack("<4q", 0, 2, -1, 2**62), "mask"),
        "E_PAYLOAD",
    ),
    "an update": (SOUND, "E_SCHEMA"),
}

# Safetensors -------------------------------------------------------------------------------------


def entry(**changed: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed


def st(header: Any, body: bytes = bytes(8)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return tensor_file(raw, body)


def named(name: str) -> bytes:
    return st({name: entry()})


TENSORS: dict[str, tuple[bytes, str]] = {
    "seven bytes": (b"\x08\0\0\0\0\0\0", "E_PAYLOAD"),
    "an empty header": (st(b""), "E_PAYLOAD"),
    "a header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "E_TOO_BIG"),
    "a header of 63 MiB": (struct.pack("<Q", 63 << 20) + b"{" + bytes(1000), "E_TOO_BIG"),
    "a header that is cut off": (st({"a": entry()})[:30], "E_PAYLOAD"),
    "20,000 tensors of no size": (
        st({f"t{n}": entry(shape=[0], data_offsets=[0, 0]) for n in range(20_000)}, b""),
        "E_TOO_BIG",
    ),
    "a header blown up by spaces": (
        st(json.dumps({"a": entry()}).encode() + b" " * 70_000),
        "E_TOO_BIG",
    ),
    "metadata of 100 kB": (st({"__metadata__": {"x": "y" * 100_000}}, b""), "E_TOO_BIG"),
    "no JSON": (st(b"{'a': 1}"), "E_PAYLOAD"),
    "a list": (st([1, 2]), "E_PAYLOAD"),
    "a space first": (st(b" " + json.dumps({"a": entry()}).encode()), "E_PAYLOAD"),
    "a byte order mark": (st(b"\xef\xbb\xbf" + json.dumps({"a": entry()}).encode()), "E_PAYLOAD"),
    "UTF-16": (st('{"a":1}'.encode("utf-16")), "E_PAYLOAD"),
    "half a character": (st(b'{"\xff": 1}'), "E_PAYLOAD"),
    "NUL after the header": (st(json.dumps({"a": entry()}).encode() + b"\0"), "E_PAYLOAD"),
    "ten thousand brackets": (st(b'{"a":' + b"[" * 10_000), "E_PAYLOAD"),
    "a name twice": (
        st(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)),
        "E_PAYLOAD",
    ),
    "a dtype twice": (
        st(b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}'),
        "E_PAYLOAD",
    ),
    "metadata twice": (st(b'{"__metadata__":{},"__metadata__":{}}', b""), "E_PAYLOAD"),
    "a dtype of nobody": (st({"a": entry(dtype="BF17")}), "E_PAYLOAD"),
    "complex numbers": (st({"a": entry(dtype="C64", shape=[1])}), "E_PAYLOAD"),
    "eight-bit floats": (st({"a": entry(dtype="F8_E4M3", shape=[8])}), "E_PAYLOAD"),
    "a dtype that is a number": (st({"a": entry(dtype=1)}), "E_PAYLOAD"),
    "a negative side": (st({"a": entry(shape=[-2])}), "E_PAYLOAD"),
    "a side of 2^63": (st({"a": entry(shape=[2**63])}), "E_PAYLOAD"),
    "a side of 5,000 digits": (
        st(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000)),
        "E_PAYLOAD",
    ),
    "no values and 2^40 rows": (
        st({"a": entry(shape=[0, 2**40], data_offsets=[0, 0])}, b""),
        "E_PAYLOAD",
    ),
    "no values and overflowing sides": (
        st({"a": entry(shape=[0] + [2**31 - 1] * 5, data_offsets=[0, 0])}, b""),
        "E_PAYLOAD",
    ),
    "a side that is a fraction": (st({"a": entry(shape=[2.0])}), "E_PAYLOAD"),
    "a side that is true": (st({"a": entry(shape=[True, 2])}), "E_PAYLOAD"),
    "sixty-five sides": (st({"a": entry(shape=[1] * 64 + [2])}), "E_PAYLOAD"),
    "a shape in words": (st({"a": entry(shape="2")}), "E_PAYLOAD"),
    "offsets the wrong way round": (st({"a": entry(data_offsets=[8, 0])}), "E_PAYLOAD"),
    "negative offsets": (st({"a": entry(data_offsets=[-8, 0])}), "E_PAYLOAD"),
    "offsets beyond the file": (st({"a": entry(data_offsets=[0, 2**40])}), "E_PAYLOAD"),
    "three offsets": (st({"a": entry(data_offsets=[0, 4, 8])}), "E_PAYLOAD"),
    "overlapping tensors": (st({"a": entry(), "b": entry()}), "E_PAYLOAD"),
    "a hole": (
        st(
            {
                "a": entry(shape=[1], data_offsets=[0, 4]),
                "b": entry(shape=[1], data_offsets=[8, 12]),
            },
            bytes(12),
        ),
        "E_PAYLOAD",
    ),
    "bytes before the first": (st({"a": entry(data_offsets=[8, 16])}, bytes(16)), "E_PAYLOAD"),
    "bytes after the last": (st({"a": entry()}, bytes(9)), "E_PAYLOAD"),
    "a zip after the last": (st({"a": entry()}) + zipped(), "E_PAYLOAD"),
    "values missing": (st({"a": entry()}, bytes(7)), "E_PAYLOAD"),
    "no offsets": (st({"a": {"dtype": "F32", "shape": [2]}}), "E_PAYLOAD"),
    "a field too many": (st({"a": entry(stride=[1])}), "E_PAYLOAD"),
    "a tensor that is null": (st({"a": None}), "E_PAYLOAD"),
    "no name": (named(""), "E_PAYLOAD"),
    "a name that leads elsewhere": (named("../../x"), "E_PAYLOAD"),
    "a name from the root": (named("/etc/passwd"), "E_PAYLOAD"),
    "a name of the other slash": (named("a\\b"), "E_PAYLOAD"),
    "a name with NUL": (named("a\0b"), "E_PAYLOAD"),
    "a name with a line's end": (named("a\nb"), "E_PAYLOAD"),
    "half a surrogate pair": (named("\ud800"), "E_PAYLOAD"),
    "a name of 10,000 letters": (named("a" * 10_000), "E_PAYLOAD"),
    "metadata of numbers": (st({"__metadata__": {"fedx": 1}}, b""), "E_PAYLOAD"),
    "metadata in a list": (st({"__metadata__": ["fedx"]}, b""), "E_PAYLOAD"),
    "metadata that are no JSON": (st({"__metadata__": {"fedx": "{"}}, b""), "E_PAYLOAD"),
    "metadata with NaN": (st({"__metadata__": {"fedx": '{"a":NaN}'}}, b""), "E_PAYLOAD"),
    "metadata with a key twice": (
        st({"__metadata__": {"fedx": '{"a":1,"a":2}'}}, b""),
        "E_PAYLOAD",
    ),
    "metadata that are a list": (st({"__metadata__": {"fedx": "[]"}}, b""), "E_PAYLOAD"),
    "bools of seven": (st({"a": entry(dtype="BOOL", shape=[8])}, b"\1\0\7\0\0\0\0\1"), "E_PAYLOAD"),
}

# A server's state --------------------------------------------------------------------------------


def packed(tensors: dict[str, torch.Tensor] | None = None, **about: Any) -> bytes:
    """Pack a state, with some of what it says of itself changed."""
    found, said = checkpoint.unpack_state(checkpoint.pack_server_state(server_state()))
    return checkpoint.pack_state(found | (tensors or {}), said | about)


ORDER = {"model": ["conv.weight", "bn.count"], "mask": ["conv"], "memory": ["moment/conv.weight"]}
STATES: dict[str, tuple[bytes, str]] = {
    "no description": (checkpoint.pack_state({"a": torch.ones(1)}), "E_VERSION"),
    "a later protocol": (packed(protocol=2), "E_VERSION"),
    "a tensor that is not listed": (packed({"model/x": torch.ones(1)}), "E_PAYLOAD"),
    "a tensor that is not there": (packed(order=ORDER | {"memory": ["x"]}), "E_PAYLOAD"),
    "a tensor listed twice": (packed(order=ORDER | {"mask": ["conv", "conv"]}), "E_PAYLOAD"),
    "an order in words": (packed(order="model"), "E_PAYLOAD"),
    "a mask of another kind": (packed(mask_kind="rows"), "E_PAYLOAD"),
    "a mask of numbers": (packed({"mask/conv": torch.ones(2)}), "E_MASK"),
    "a round in words": (packed(round_index="3"), "E_PAYLOAD"),
    "a field of nobody": (packed(extra=1), "E_PAYLOAD"),
}

# Messages ----------------------------------------------------------------------------------------


def report(**changed: Any) -> bytes:
    return canonical(plain(REPORT) | changed)


REPORTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "E_PAYLOAD"),
    "a number": (b"1", "E_PAYLOAD"),
    "two MiB": (b" " * (2 << 20), "E_TOO_BIG"),
    "NaN as a loss": (report(metrics={"train_loss": float("nan")}), "E_PAYLOAD"),
    "a loss of 1e999": (report().replace(b"0.5", b"1e999"), "E_PAYLOAD"),
    "a list of losses": (report(metrics={"train_loss": [1.0, 2.0]}), "E_PAYLOAD"),
    "a thousand numbers": (report(metrics={f"m{n}": 0.0 for n in range(1000)}), "E_PAYLOAD"),
    "a number called ../x": (report(metrics={"../x": 0.0}), "E_ID"),
    "a number with no name": (report(metrics={"": 0.0}), "E_ID"),
    "a number called examples": (report(metrics={"examples": 1e9}), "E_ID"),
    "more examples than it has": (report(examples=EXAMPLES + 1), "E_EXAMPLES"),
    "no examples": (report(examples=0), "E_EXAMPLES"),
    "fewer examples than none": (report(examples=-1), "E_EXAMPLES"),
    "examples of 30 digits": (report(examples=10**30), "E_PAYLOAD"),
    "true examples": (report(examples=True), "E_PAYLOAD"),
    "another client's name": (report(client="south"), "E_STALE"),
    "another attempt": (report(attempt=0), "E_STALE"),
    "another purpose": (report(purpose="evaluate"), "E_STALE"),
    "a purpose of nobody": (report(purpose="leak"), "E_STALE"),
    "another client's update": (report(uplink=plain(ref("uplink/0002/south.1"))), "E_ID"),
    "last round's update": (report(uplink=plain(ref("uplink/0001/north.1"))), "E_ID"),
    "another client's memory": (report(memory=plain(ref("memory/south/0002.1"))), "E_ID"),
    "a negative length": (report(uplink=plain(replace(ref(JOB.uplink_key), size=-1))), "E_PAYLOAD"),
    "a field of nobody": (report(shell="rm"), "E_PAYLOAD"),
    "a field less": (
        canonical({k: v for k, v in plain(REPORT).items() if k != "examples"}),
        "E_PAYLOAD",
    ),
    "examples twice": (report()[:-1] + b',"examples":1}', "E_PAYLOAD"),
    "forty brackets": (b"[" * 40 + b"]" * 40, "E_PAYLOAD"),
}
PLANS: dict[str, tuple[bytes, str]] = {
    "no training": (
        canonical({k: v for k, v in plain(plan()).items() if k != "training"}),
        "E_PAYLOAD",
    ),
    "a model that is a number": (canonical(plain(plan()) | {"model": 6}), "E_PAYLOAD"),
    "a command": (canonical(plain(plan()) | {"command": "id"}), "E_PAYLOAD"),
    "no epochs": (
        canonical(plain(plan()) | {"training": plain(plan().training) | {"epochs": 0}}),
        "E_CONFIG",
    ),
    "labels of another kind": (canonical(plain(plan()) | {"label_kind": "both"}), "E_PAYLOAD"),
}

# Users' weights and models -----------------------------------------------------------------------

MODEL = catalogue.build("resnet6", 3, 10, seed=1).state_dict()
CARD = {
    "format": 1, "version": "0", "run": "r", "seed": 1, "round_index": 1, "dataset": "d",
    "model": "resnet6", "bands": ["a", "b", "c"], "class_names": [str(n) for n in range(10)],
    "label_kind": "single", "image_size": 32, "pixels": plain(plan().pixels), "units_kept": {},
}  # fmt: skip


def weights(**changed: torch.Tensor | None) -> bytes:
    tensors = {n: v for n, v in (MODEL | changed).items() if v is not None}
    return checkpoint.pack_state(tensors, CARD)


def poisoned(name: str, value: float) -> torch.Tensor:
    tensor = MODEL[name].clone()
    tensor.view(-1)[-1] = value
    return tensor


WEIGHTS: dict[str, tuple[bytes, str]] = {
    "a tensor less": (weights(**{"fc.bias": None}), "E_SCHEMA"),
    "a tensor more": (weights(**{"fc.extra": torch.ones(1)}), "E_SCHEMA"),
    "another shape": (weights(**{"fc.bias": torch.ones(11)}), "E_SCHEMA"),
    "another dtype": (weights(**{"fc.bias": torch.ones(10).double()}), "E_SCHEMA"),
    "NaN at the end": (
        weights(**{"fc.weight": poisoned("fc.weight", float("nan"))}),
        "E_NONFINITE",
    ),
    "infinity": (weights(**{"fc.bias": poisoned("fc.bias", float("inf"))}), "E_NONFINITE"),
    "cut off": (weights()[:-1], "E_PAYLOAD"),
    "a pickle behind": (weights() + pickled(), "E_PAYLOAD"),
}
MODELS: dict[str, tuple[bytes, str]] = {
    "no card": (checkpoint.pack_state(MODEL), "E_PAYLOAD"),
    "a later format": (checkpoint.pack_state(MODEL, CARD | {"format": 99}), "E_VERSION"),
    "a model of nobody": (checkpoint.pack_state(MODEL, CARD | {"model": "os.system"}), "E_NAME"),
    "another number of bands": (checkpoint.pack_state(MODEL, CARD | {"bands": ["a"]}), "E_SCHEMA"),
    "a card that says too little": (checkpoint.pack_state(MODEL, {"format": 1}), "E_PAYLOAD"),
}


FILES = {
    "dense": FRAMES,
    "chosen": CHOICES,
    "mask": MASKS,
    "tensors": TENSORS,
    "state": STATES,
    "report": REPORTS,
    "plan": PLANS,
    "weights": WEIGHTS,
    "model": MODELS,
}
"""By what reads them: files by name, with their codes."""
