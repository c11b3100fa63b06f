"""One job of one site, with all that belongs to it."""

import dataclasses
import hashlib
from typing import Any

from bed import tiny
from fedx_core.base.config import ExperimentConfig
from fedx_core.clients.plan import Plan
from fedx_core.images.pixels import Pixels
from fedx_core.sites import keys
from fedx_core.sites.grants import Grant
from fedx_core.sites.orders import Order
from fedx_core.sites.registry import Admitted
from fedx_core.wire.messages import PROTOCOL, ClientJob, ClientReport, Ref

COORDINATOR, NORTH, SOUTH = (keys.make(name) for name in ("coordinator", "north", "south"))
ADMITTED = Admitted(NORTH.public, max_examples=500)
NOW = 1_800_000_000.0


def ref(key: str, data: bytes = b"bytes") -> Ref:
    return Ref(key, hashlib.sha256(data).hexdigest(), len(data))


def job(**changes: Any) -> ClientJob:
    """North's job in round 7; anything may be changed."""
    asked = ClientJob(
        protocol=PROTOCOL,
        run="demo",
        round_index=7,
        client="north",
        attempt=0,
        seed=99,
        purpose="train",
        plan=ref("plans/a", b"plan"),
        base=ref("downlink/b", b"base"),
        mask=ref("masks/c", b"mask"),
        schema="d" * 64,
        memory=None,
        uplink_key="uplink/0007/north.0",
        deadline=60.0,
    )
    return dataclasses.replace(asked, **changes)


def report(**changes: Any) -> ClientReport:
    """North's answer to :func:`job`."""
    asked = job()
    said = ClientReport(
        client="north",
        attempt=0,
        purpose="train",
        uplink=ref(asked.uplink_key, b"payload"),
        examples=480,
        metrics={"train_loss": 0.25},
        memory=ref("memory/north/0007.0", b"memory"),
        seconds=1.5,
    )
    return dataclasses.replace(said, **changes)


def plan(settings: ExperimentConfig | None = None) -> Plan:
    """A plan that a site might be asked to follow."""
    settings = settings or tiny()
    return Plan(
        model=settings.model.name,
        bands=3,
        classes=10,
        label_kind="single",
        pixels=Pixels(
            scale=255.0, mean=(0.5,) * 3, std=(0.2,) * 3, input_size=None,
            memory_format="contiguous",
        ),
        training=settings.training,
        method=settings.method,
        codec=settings.codec.down,
        uplink=settings.codec.up,
        support=settings.support,
        first_model=1 if settings.federation.first_model == "seed" else None,
    )  # fmt: skip


def grant(verb: Any, key: str, size: int = 5, **changes: Any) -> Grant:
    granted = Grant(
        verb=verb,
        key=key,
        size=size,
        url=f"http://127.0.0.1:8333/fedx/{key}?X-Amz-Signature=canary",
        headers={"if-none-match": "*"} if verb == "put" else {},
        expires=NOW + 900,
    )
    return dataclasses.replace(granted, **changes)


def order(asked: ClientJob | None = None, **changes: Any) -> Order:
    """An order that grants what its job needs."""
    asked = asked or job()
    fetched = [each for each in (asked.plan, asked.base, asked.mask) if each is not None]
    issued = Order(
        job=asked,
        grants=(
            *(grant("get", each.key, each.size) for each in fetched),
            grant("put", asked.uplink_key, 1000),
            grant("put", asked.report_key, 8192),
        ),
        inbox=grant("get", "inbox/north/5f2d", 65536),
        expires=NOW + 900,
    )
    return dataclasses.replace(issued, **changes)
