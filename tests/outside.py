"""All that reads what comes from outside, each with something sound to read.

``test_crafted_files`` hands it files made by hand, ``fuzzing`` a million mutations.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from bed import tiny
from fedx_core.asks.train import NOISE
from fedx_core.base import plugins, state, strict_json
from fedx_core.base.config import Plugin, as_plain
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.base.state import Payload, StateDict
from fedx_core.clients.plan import Plan
from fedx_core.images.pixels import Pixels
from fedx_core.methods import fedpaq
from fedx_core.pruning.masks import Mask
from fedx_core.record import checkpoint
from fedx_core.record.records import Commit, Holding
from fedx_core.sites import manifest, notes, orders
from fedx_core.sites.grants import Grant
from fedx_core.sites.keys import Keys
from fedx_core.sites.registry import Admitted
from fedx_core.wire import acceptance, domains, frame
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import (
    LARGEST_MESSAGE,
    LARGEST_RECORD,
    PROTOCOL,
    ClientFailure,
    ClientJob,
    ClientReport,
    Entry,
    Ref,
    RoundReport,
    Schema,
    ServerState,
    Traffic,
)

EXAMPLES = 40
"""Images that the client of these reports has."""


@dataclass(frozen=True)
class Reader:
    """What reads bytes, and bytes that it takes."""

    read: Callable[[bytes], object]
    sound: tuple[bytes, ...]


def _values() -> Payload:
    generator = torch.Generator().manual_seed(1)
    return {
        "model/conv.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "model/bn.count": torch.tensor(41),
        "model/half": torch.randn(3, generator=generator).half(),
        "mask/conv": torch.tensor([True, False, True, True]),
        "model/fc.bias": torch.linspace(-1, 1, 5),
    }


def _entries(values: Payload) -> tuple[Entry, ...]:
    return tuple(Entry(n, str(v.dtype), tuple(v.shape)) for n, v in values.items())


ROWS = torch.tensor([True, False, True, True])
SCHEMAS = {
    "dense": Schema(_entries(_values())),
    "masked": Schema(_entries(_values()), {"model/conv.weight": ROWS.reshape(4, 1, 1, 1)}),
    "sliced": Schema(
        _entries(_values()),
        {"model/conv.weight": (ROWS[:, None] & torch.tensor([True, True, False]))[..., None, None]},
    ),
}
LOSSY = ("deadzone", "quantised", "signs", "topk")
SCHEMAS |= dict.fromkeys(LOSSY, SCHEMAS["sliced"])
CHOSEN = Schema(
    (Entry("chosen/w", "torch.bool", (4, 1)), Entry("model/w", "torch.float32", (4, 3))),
    {"model/w": ROWS[:, None]},
    {"model/w": "chosen/w"},
)
MASK = checkpoint.mask_schema("units", {"conv1": (5,), "conv2": (8,)})


def update_reader(codec: str, schema: Schema, payload: Payload) -> Reader:
    """Decode as the server does, and see that what is accepted is what was agreed on."""
    made = plugins.build("codec", codec, {})
    wanted = [(e.name, e.dtype, e.shape) for e in schema.entries]

    def read(data: bytes) -> Payload:
        found: Payload = made.decode(data, schema)
        state.require_finite(found, "client-00")
        if [(n, str(v.dtype), tuple(v.shape)) for n, v in found.items()] != wanted:
            raise AssertionError("a payload of another layout was accepted")
        return found

    return Reader(read, (bytes(made.encode(payload, schema, {}, 1)[0]),))


def framed(schema: Schema, body: bytes, codec: str = "dense", **fields: Any) -> bytes:
    """Frame a body as a sender would that keeps to no rule; ``fields`` go over the header's."""
    header = {
        "magic": b"FEDX",
        "protocol": PROTOCOL,
        "low": 0,
        "codec": codec.encode().ljust(8, b"\0"),
        "digest": schema.digest,
        "length": len(body),
        "checksum": zlib.crc32(body),
        "high": 0,
    }
    return HEADER.pack(*(header | fields).values()) + body


def tensor_file(header: bytes, body: bytes = b"") -> bytes:
    """Put a header in front of values, as safetensors does."""
    return struct.pack("<Q", len(header)) + header + body


def server_state() -> ServerState:
    return ServerState(
        round_index=3,
        model={"conv.weight": torch.ones(2, 3), "bn.count": torch.tensor(4)},
        mask=Mask("units", {"conv": torch.tensor([True, False])}),
        memory={"moment/conv.weight": torch.zeros(2, 3)},
    )


def _unpack(data: bytes) -> tuple[StateDict, Mapping[str, Any]]:
    return checkpoint.unpack_state(data)


def ref(key: str) -> Ref:
    return Ref(key, "0" * 64, 100)


SAYS = {**fedpaq.Method().says, NOISE: domains.RATIO}

JOB = ClientJob(
    protocol=PROTOCOL,
    run="run",
    round_index=2,
    client="north",
    attempt=1,
    seed=7,
    purpose="train",
    plan=ref("plans/a"),
    base=ref("downlink/a"),
    mask=ref("masks-units/a"),
    schema="00" * 32,
    memory=ref("memory/north/0001.0"),
    uplink_key="uplink/0002/north.1",
    deadline=60.0,
)
REPORT = ClientReport(
    client="north",
    attempt=1,
    purpose="train",
    uplink=ref("uplink/0002/north.1"),
    examples=EXAMPLES,
    metrics={"train_loss": 0.5, "noise": 1e-3},
    memory=ref("memory/north/0002.1"),
    seconds=1.5,
)


def read_report(data: bytes) -> ClientReport:
    report = parse(ClientReport, strict_json.loads(data, LARGEST_MESSAGE))
    acceptance.check(report, JOB, EXAMPLES, SAYS)
    return report


def plan() -> Plan:
    settings = tiny()
    return Plan(
        model="resnet6",
        bands=3,
        classes=10,
        label_kind="single",
        pixels=Pixels(
            scale=255.0,
            mean=(0.1, 0.2, 0.3),
            std=(1.0, 1.0, 1.0),
            input_size=None,
            memory_format="contiguous",
        ),
        training=settings.training,
        method=Plugin(name=settings.method.name, params=as_plain(settings.method.params)),
        codec=settings.codec.down,
    )


def read_plan(data: bytes) -> Plan:
    return parse(Plan, strict_json.loads(data, LARGEST_MESSAGE))


def _record() -> bytes:
    report = RoundReport(
        round_index=2,
        rounds=5,
        cohort=("north", "south"),
        failures=(ClientFailure(client="south", attempt=1, reason="E_NONFINITE: NaN"),),
        metrics={"overall_accuracy": 0.5, "loss": float("nan")},
        metrics_before_pruning={},
        pruned=True,
        traffic={"north": Traffic(downlink=100, uplink=90)},
        paper_bytes=80,
        sparsity=0.5,
        units_kept={"conv1": (3, 5)},
        train_loss=0.4,
        seconds={"train": 1.0},
    )
    return canonical(
        Commit(
            round_index=2,
            plan=ref("plans/a"),
            state=ref("states/a"),
            report=report,
            holdings={"north": Holding(mask="00" * 32, memory=ref("memory/north/0002.1"))},
        )
    )


def read_record(data: bytes) -> Commit:
    return parse(Commit, strict_json.loads(data, LARGEST_RECORD, finite=False), gaps=True)


SITE = Keys("north", bytes([1] * 32), bytes([2] * 32))
COORDINATOR = Keys("coordinator", bytes([3] * 32), bytes([4] * 32))
ADMITTED = Admitted(SITE.public, EXAMPLES)


def read_manifest(data: bytes) -> ClientReport:
    report = manifest.read(data, JOB, ADMITTED)
    acceptance.check(report, JOB, EXAMPLES, SAYS)
    return report


def read_note(data: bytes) -> notes.Note:
    return notes.read(data, JOB, SITE.public)


def read_order(data: bytes) -> orders.Order:
    return orders.open_order(data, SITE, COORDINATOR.public)


def _order() -> bytes:
    grants = tuple(
        Grant("get", r.key, r.size, f"https://s3.example/{r.key}", {}, 2e9)
        for r in (JOB.plan, JOB.base, JOB.mask)
        if r is not None
    )
    inbox = Grant("get", "inbox/north/00ff", 9000, "https://s3.example/inbox", {}, 2e9)
    return orders.issue(orders.Order(JOB, grants, inbox, 2e9), COORDINATOR, SITE.public)


def readers() -> dict[str, Reader]:
    """Name all readers."""
    chosen = {"chosen/w": ROWS[:, None].clone(), "model/w": torch.ones(4, 3)}
    mask = {f"units/{n}": torch.arange(c) % 2 == 0 for n, c in (("conv1", 5), ("conv2", 8))}
    evaluated = replace(REPORT, purpose="evaluate", uplink=None, memory=None)
    return {
        **{name: update_reader(name, schema, _values()) for name, schema in SCHEMAS.items()},
        "chosen": update_reader("sliced", CHOSEN, chosen),
        "mask": Reader(
            lambda data: frame.decode(data, MASK, "mask"),
            (bytes(frame.encode(mask, MASK, "mask")),),
        ),
        "state": Reader(
            checkpoint.unpack_server_state, (checkpoint.pack_server_state(server_state()),)
        ),
        "tensors": Reader(
            _unpack,
            (checkpoint.pack_state({"a": torch.ones(2), "b": torch.tensor([True])}, {"x": 1}),),
        ),
        "report": Reader(read_report, (canonical(REPORT),)),
        "evaluation": Reader(
            lambda data: parse(ClientReport, strict_json.loads(data, LARGEST_MESSAGE)),
            (canonical(evaluated),),
        ),
        "plan": Reader(read_plan, (canonical(plan()),)),
        "record": Reader(read_record, (_record(),)),
        "manifest": Reader(read_manifest, (manifest.write(REPORT, JOB, SITE),)),
        "note": Reader(
            read_note,
            tuple(notes.write(word, JOB, SITE, size=9) for word in ("ready", "refused")),
        ),
        "order": Reader(read_order, (_order(),)),
    }
