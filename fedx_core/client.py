"""One client's part of a round: fetch, train on the shard, store an update, report.

A function of its job, with no memory in the process. The report is written last and write-once, so
a job that is done again finds it and every kind of retry is safe.

What a client sends is not forced onto the disk: it is of use until its round is committed, and a
machine that went down before that trains again whom it has lost. What a client keeps is forced.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import fedx_core
from fedx_core import (
    acceptance,
    allocator,
    checkpoint,
    domains,
    evaluation,
    examples,
    masks,
    state,
    strict_json,
)
from fedx_core.codec import base as framing
from fedx_core.errors import (
    AlreadyExistsError,
    ObjectMissingError,
    PayloadError,
    SchemaError,
    VersionError,
)
from fedx_core.examples import Examples
from fedx_core.frozen_json import canonical, parse
from fedx_core.masks import Mask
from fedx_core.messages import (
    LARGEST_MESSAGE,
    POOLED,
    PROTOCOL,
    ClientJob,
    ClientReport,
    Entry,
    Ref,
    Schema,
)
from fedx_core.methods.base import Local
from fedx_core.moments import Moments, measure
from fedx_core.plan import Plan, Workbench, set_up
from fedx_core.shrink.values import cut, grow
from fedx_core.state import Payload, StateDict
from fedx_core.store import Store, create_once, open_store
from fedx_core.structure import Cut

MOMENTS = "optimiser"
"""Section of a client's memory that is the optimiser's; all else in it is the method's."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a client's step runs and finds things; it never changes what is computed.

    Args:
        store: URI of the store that server and clients share.
        shards: folder with one folder a client.
        memory: URI of the store in which clients keep what is theirs.
    """

    store: str
    shards: str
    memory: str


def train(job: ClientJob, place: Place) -> ClientReport:
    """Do one client's job: train, evaluate, or count pixels.

    A function of the job alone. Doing it again finds the report that the first time left.

    Raises:
        FedXError: the job, the payload or the shard can't be used; nothing was sent.
    """
    store = open_store(place.store, durable=False)
    if (earlier := _earlier(store, job)) is not None:
        return earlier
    report = work(job, store, place)
    try:
        create_once(store, job.report_key, canonical(report))
    except AlreadyExistsError:
        # Somebody has done the same job meanwhile, for a second server; the first one counts.
        if (earlier := _earlier(store, job)) is None:
            raise
        return earlier
    return report


def work(job: ClientJob, store: Store, place: Place) -> ClientReport:
    """Do what a job asks for and store the payload; the report is the caller's to tell.

    Args:
        job: to do.
        store: that the job's references and keys are of; ``place.store`` is not opened.
        place: where shards and memories are.

    Raises:
        FedXError: as :func:`train`.
    """
    started = time.perf_counter()
    if job.protocol != PROTOCOL:
        raise VersionError(
            f"job of protocol {job.protocol}, this client runs protocol {PROTOCOL} (FedX "
            f"{fedx_core.__version__}); install the server's version of FedX"
        )
    plan = _plan(store, job.plan)
    torch.set_num_threads(plan.training.threads)
    allocator.keep_freed_memory()
    do = {"train": _train, "evaluate": _evaluate, "statistics": _statistics}[job.purpose]
    report = do(job, plan, store, place)
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _train(job: ClientJob, plan: Plan, store: Store, place: Place) -> ClientReport:
    bench, local = _prepare(job, plan, store, place, "train")
    update = bench.method.train(local)
    uplink = None
    schema = bench.wire(local.mask, job.variant).up
    if schema.entries:
        data = bench.codec.encode(update.payload, schema)
        uplink = _send(store, job, data, partial(bench.codec.decode, schema=schema))
    memory = None
    moments = grow(local.moments or {}, _cuts_of_moments(local.cuts))
    kept = {**(update.memory or {}), **state.as_section(moments, MOMENTS)}
    if kept:
        key = f"memory/{job.client}/{job.round_index:04d}.{job.attempt}"
        memory = open_store(place.memory).put(key, checkpoint.pack_state(kept))
    return ClientReport(
        client=job.client,
        attempt=job.attempt,
        purpose=job.purpose,
        uplink=uplink,
        examples=update.examples,
        metrics=update.metrics,
        memory=memory,
        seconds=0.0,
        variant=job.variant,
    )


def _evaluate(job: ClientJob, plan: Plan, store: Store, place: Place) -> ClientReport:
    bench, local = _prepare(job, plan, store, place, "test")
    found: dict[str, float] = {}
    if len(local.examples):
        bench.method.evaluated(local)
        logits = evaluation.predict(
            local.model,
            local.examples,
            pixels=plan.pixels,
            batch_size=plan.training.eval_batch_size,
            device=bench.device,
        )
        found = evaluation.metrics(logits, local.examples.labels, plan.label_kind)
    return ClientReport(
        client=job.client,
        attempt=job.attempt,
        purpose=job.purpose,
        uplink=None,
        examples=len(local.examples),
        metrics=found,
        memory=None,
        seconds=0.0,
        variant=job.variant,
    )


def _statistics(job: ClientJob, plan: Plan, store: Store, place: Place) -> ClientReport:
    shard = open_shard(place, job.client, "train")
    moments = measure(shard, plan.pixels.scale)
    payload = {
        "pixels/count": torch.tensor([moments.count], dtype=torch.float64),
        "pixels/total": torch.from_numpy(moments.total),
        "pixels/total_of_squares": torch.from_numpy(moments.total_of_squares),
    }
    schema = statistics_schema(plan.bands)
    data = framing.encode(payload, schema, "dense")
    return ClientReport(
        client=job.client,
        attempt=job.attempt,
        purpose=job.purpose,
        uplink=_send(store, job, data, partial(framing.decode, schema=schema, codec="dense")),
        examples=len(shard),
        metrics={},
        memory=None,
        seconds=0.0,
    )


def statistics_schema(bands: int) -> Schema:
    """Say what a client sends for federated normalisation: a count and two sums a band."""
    return Schema(
        (
            Entry("pixels/count", "torch.float64", (1,), domain=domains.COUNT),
            Entry("pixels/total", "torch.float64", (bands,), domain=domains.POSITIVE),
            Entry("pixels/total_of_squares", "torch.float64", (bands,), domain=domains.POSITIVE),
        )
    )


def open_shard(place: Place, client: str, part: str) -> Examples:
    """Open one client's examples, memory-mapped; :data:`POOLED` is all clients' together.

    Raises:
        DataError: there is no such shard.
    """
    root = Path(place.shards)
    if client != POOLED:
        return examples.read_part(root / client, part)
    clients = examples.read_manifest(root)["clients"]
    parts = [open_shard(place, client["name"], part) for client in clients]
    return Examples(
        images=np.concatenate([p.images for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        groups=np.concatenate([p.groups for p in parts]),
    )


_desk = threading.local()
"""One plan, one workbench and one decoded downlink a thread: a cache, never a memory."""


def _plan(store: Store, ref: Ref) -> Plan:
    """Fetch and read a plan; the last one is kept, since it is the same job after job."""
    if getattr(_desk, "plan_ref", None) != ref:
        _desk.plan, _desk.plan_ref = (
            parse(Plan, strict_json.loads(store.get(ref), LARGEST_MESSAGE)),
            ref,
        )
    plan: Plan = _desk.plan
    return plan


def _prepare(
    job: ClientJob, plan: Plan, store: Store, place: Place, part: str
) -> tuple[Workbench, Local]:
    if getattr(_desk, "built", None) != job.plan.sha256:
        _desk.bench, _desk.built = set_up(plan), job.plan.sha256
        _desk.base = _desk.masked = None
    bench: Workbench = _desk.bench
    if job.base is None:
        raise PayloadError(f"a job to {job.purpose} names no downlink")
    if _desk.base != (job.base.sha256, job.mask):
        if _desk.masked is None or _desk.masked != job.mask:
            names = bench.method.masked(bench.info)
            _desk.mask = checkpoint.fetch_mask(store, job.mask, bench.info, names)
            _desk.masked = job.mask
        schema = bench.wire(_desk.mask, job.variant).down
        if schema.digest.hex() != job.schema:
            raise SchemaError(
                "server and client derive different payloads from this plan and mask; "
                "install the same version of FedX on both sides"
            )
        framing.require_length(job.base, schema)
        _desk.downlink = bench.codec.decode(store.get(job.base), schema)
        _desk.base = (job.base.sha256, job.mask)
    memory: StateDict = {}
    if job.memory is not None:
        memory, _ = checkpoint.unpack_state(open_store(place.memory).get(job.memory))
    cuts = bench.cuts(_desk.mask)
    moments = _alive(state.section(memory, MOMENTS), bench, _desk.mask)
    return bench, Local(
        client=job.client,
        round_index=job.round_index,
        model=bench.model_for(_desk.mask),
        info=bench.info,
        downlink=_desk.downlink,
        mask=_desk.mask,
        memory={n: v for n, v in memory.items() if not n.startswith(f"{MOMENTS}/")},
        examples=open_shard(place, job.client, part),
        label_kind=plan.label_kind,
        pixels=plan.pixels,
        settings=plan.training,
        seed=job.seed,
        moments=cut(moments, _cuts_of_moments(cuts))
        if plan.training.optimiser_state == "kept"
        else None,
        cuts=cuts,
        variant=job.variant,
    )


def _alive(moments: StateDict, bench: Workbench, mask: Mask | None) -> StateDict:
    """Zero the moments of what is dead by now, since they alone would move it off zero."""
    support = bench.method.support(bench.info, mask, "slices")
    parts = (state.as_section(support, part) for part in ("exp_avg", "exp_avg_sq"))
    return masks.apply(moments, {name: kept for part in parts for name, kept in part.items()})


def _cuts_of_moments(cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    parts = ("exp_avg", "exp_avg_sq")
    return {f"{part}/{name}": kept for part in parts for name, kept in cuts.items()}


def _earlier(store: Store, job: ClientJob) -> ClientReport | None:
    """Return the report of an earlier go at this job; forget one whose bytes did not last."""
    try:
        if (data := store.read(job.report_key, LARGEST_MESSAGE)) is None:
            return None
        report = parse(ClientReport, strict_json.loads(data, LARGEST_MESSAGE))
        if report.uplink is not None:
            store.get(report.uplink)
        return report
    except (ObjectMissingError, PayloadError):
        store.delete(job.report_key)
        store.delete(job.uplink_key)
        return None


def _send(
    store: Store,
    job: ClientJob,
    data: framing.Buffer,
    decode: Callable[[framing.Buffer], Payload],
) -> Ref:
    """Store a payload, write-once."""
    try:
        return create_once(store, job.uplink_key, data)
    except AlreadyExistsError:
        # A whole one stays; half of one, from before the machine went down, does not.
        try:
            decode(store.read(job.uplink_key, 2 * len(data)) or b"")
        except PayloadError:
            return store.put(job.uplink_key, data)
        raise


def moments_of(store: Store, report: ClientReport, bands: int) -> Moments:
    """Decode one client's counts and sums.

    Raises:
        PayloadError: they are missing or malformed.
    """
    if report.uplink is None:
        raise PayloadError(f"{report.client} sent no statistics")
    schema = statistics_schema(bands)
    framing.require_length(report.uplink, schema)
    payload = framing.decode(store.get(report.uplink), schema, "dense")
    acceptance.check_payload(payload, schema, report.client)
    return Moments(
        int(payload["pixels/count"]),
        payload["pixels/total"].numpy(),
        payload["pixels/total_of_squares"].numpy(),
    )
