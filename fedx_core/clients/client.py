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
from fedx_core.asks.base import Ask, Asked
from fedx_core.asks.train import NOISE
from fedx_core.base import allocator, plugins, state, strict_json
from fedx_core.base.errors import (
    AlreadyExistsError,
    ObjectMissingError,
    PayloadError,
    SchemaError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.base.state import Payload, StateDict
from fedx_core.clients import exchange
from fedx_core.clients.plan import MethodDesk, Plan, read_plan, set_up
from fedx_core.images import set_folder
from fedx_core.images.examples import Examples
from fedx_core.learning import optimisers
from fedx_core.methods.base import Local
from fedx_core.objectives.base import COPY
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.shrink.values import cut, grow
from fedx_core.pruning.structure import Cut
from fedx_core.record import checkpoint
from fedx_core.store import Store, create_once, open_store
from fedx_core.wire import frame
from fedx_core.wire.messages import (
    LARGEST_MESSAGE,
    POOLED,
    PROTOCOL,
    ClientJob,
    ClientReport,
    Ref,
)

MOMENTS, RESIDUAL, HELD, BESIDE = "optimiser", "residual", "held", "objective"
"""Sections of a client's memory: the optimiser's moments, what its updates have left out so far,
the downlink that it received last, and what the objective keeps. All else in it is the method's."""


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
    """Do one client's job: train, or whatever else it asks.

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
    ask: Ask = plugins.build("asks", job.purpose, {})
    plan = _plan(store, job.plan)
    torch.set_num_threads(plan.training.threads)
    allocator.keep_freed_memory()
    do = _train if ask.updates else _answer
    report = do(job, ask, plan, store, place)
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _answer(job: ClientJob, ask: Ask, plan: Plan, store: Store, place: Place) -> ClientReport:
    asked = Asked(plan=plan, shard=partial(open_shard, place, job.client))
    if ask.sends_model:
        desk, local, _, _ = _prepare(job, ask, plan, store, place)
        asked = dataclasses.replace(asked, method=desk.method, local=local)
    answer = ask.do(asked)
    uplink, schema = None, ask.schema(plan)
    if schema.entries:
        data = frame.encode(answer.payload, schema, "dense")
        uplink = _send(store, job, data, partial(frame.decode, schema=schema, codec="dense"))
    return ClientReport(
        client=job.client,
        attempt=job.attempt,
        purpose=job.purpose,
        uplink=uplink,
        examples=answer.examples,
        metrics=answer.metrics,
        memory=None,
        seconds=0.0,
        variant=job.variant,
    )


def _train(job: ClientJob, ask: Ask, plan: Plan, store: Store, place: Place) -> ClientReport:
    desk, local, memory_of, refetched = _prepare(job, ask, plan, store, place)
    shard = partial(open_shard, place, job.client)
    update = ask.do(Asked(plan=plan, shard=shard, method=desk.method, local=local))
    uplink = None
    metrics = dict(update.metrics)
    schema = desk.wire(local.mask, job.variant).up
    residual = state.section(memory_of, RESIDUAL)
    if schema.entries:
        data, residual = exchange.encode(
            desk.up, update.payload, local.downlink, schema, residual, job.seed
        )
        uplink = _send(store, job, data, partial(desk.up.decode, schema=schema))
        if desk.up.lossy:
            metrics[NOISE] = exchange.noise(desk.up, data, update.payload, local.downlink, schema)
    held: Payload = {}
    if desk.down.lossy:
        # Only this downlink is followed by changes of it; see :mod:`fedx_core.rounds.downlink`.
        held = state.section(memory_of, HELD) if job.variant else state.copy(local.downlink)
    memory = None
    moments = grow(local.moments or {}, _cuts_of_moments(local.cuts))
    kept = {
        **(update.memory or {}),
        **state.as_section(moments, MOMENTS),
        **state.as_section(residual, RESIDUAL),
        **state.as_section(held, HELD),
        **state.as_section(grow(local.beside, _cuts_of_copy(local.cuts)), BESIDE),
    }
    if kept:
        key = f"memory/{job.client}/{job.round_index:04d}.{job.attempt}"
        memory = open_store(place.memory).put(key, checkpoint.pack_state(kept))
    return ClientReport(
        client=job.client,
        attempt=job.attempt,
        purpose=job.purpose,
        uplink=uplink,
        examples=update.examples,
        metrics=metrics,
        memory=memory,
        seconds=0.0,
        variant=job.variant,
        refetched=refetched,
    )


def open_shard(place: Place, client: str, part: str) -> Examples:
    """Open one client's examples, memory-mapped; :data:`POOLED` is all clients' together.

    Raises:
        DataError: there is no such shard.
    """
    root = Path(place.shards)
    if client != POOLED:
        return set_folder.read_part(root / client, part)
    clients = set_folder.read_manifest(root)["clients"]
    parts = [open_shard(place, client["name"], part) for client in clients]
    return Examples(
        images=np.concatenate([p.images for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        groups=np.concatenate([p.groups for p in parts]),
    )


_at_hand = threading.local()
"""One plan, one desk and one decoded downlink a thread: a cache, never a memory."""


def _plan(store: Store, ref: Ref) -> Plan:
    """Fetch and read a plan; the last one is kept, since it is the same job after job."""
    if getattr(_at_hand, "plan_ref", None) != ref:
        _at_hand.plan, _at_hand.plan_ref = (
            read_plan(store.get(ref)),
            ref,
        )
    plan: Plan = _at_hand.plan
    return plan


def _prepare(
    job: ClientJob, ask: Ask, plan: Plan, store: Store, place: Place
) -> tuple[MethodDesk, Local, StateDict, bool]:
    """Fetch what a job names.

    Returns:
        What to train with, all that the client kept, and whether it had to fetch its base because
        changes did not lead there.
    """
    architecture = plan.method.build("methods").architecture(job.variant)
    if getattr(_at_hand, "built", None) != (job.plan.sha256, architecture):
        _at_hand.desk = dataclasses.replace(
            set_up(plan, architecture=architecture), public=_public(store, plan)
        )
        _at_hand.built = (job.plan.sha256, architecture)
        _at_hand.base = _at_hand.masked = None
    desk: MethodDesk = _at_hand.desk
    if job.base is None:
        raise PayloadError(f"a job to {job.purpose} names no downlink")
    memory: StateDict = {}
    if job.memory is not None:
        memory, _ = checkpoint.unpack_state(open_store(place.memory).get(job.memory))
    refetched = False
    if job.changes is not None or _at_hand.base != (job.base.sha256, job.mask, job.purpose):
        if _at_hand.masked is None or _at_hand.masked != job.mask:
            names = desk.method.masked(desk)
            _at_hand.mask = checkpoint.fetch_mask(store, job.mask, desk, names)
            _at_hand.masked = job.mask
        schema = desk.at(ask).wire(_at_hand.mask, job.variant).down
        if schema.digest.hex() != job.schema:
            raise SchemaError(
                "server and client derive different payloads from this plan and mask; "
                "install the same version of FedX on both sides"
            )
        followed: Payload | None = None
        if job.changes is not None:
            start = state.section(memory, HELD) or exchange.first(plan, desk, job.variant)
            followed = exchange.followed(store, desk, schema, start, job.changes, job.base)
            refetched = followed is None
        _at_hand.downlink = followed or exchange.fetched(store, desk, schema, job.base)
        _at_hand.base = (job.base.sha256, job.mask, job.purpose)
    cuts = desk.cuts(_at_hand.mask)
    moments = _alive(state.section(memory, MOMENTS), desk, _at_hand.mask)
    local = Local(
        desk=desk.at(ask),
        client=job.client,
        round_index=job.round_index,
        model=desk.model_for(_at_hand.mask),
        downlink=_at_hand.downlink,
        mask=_at_hand.mask,
        memory={
            name: value
            for name, value in memory.items()
            if name.partition("/")[0] not in (MOMENTS, RESIDUAL, HELD, BESIDE)
        },
        examples=open_shard(place, job.client, ask.part),
        seed=job.seed,
        moments=cut(moments, _cuts_of_moments(cuts))
        if plan.training.optimiser_state == "kept"
        else None,
        beside=cut(state.section(memory, BESIDE), _cuts_of_copy(cuts)),
        cuts=cuts,
        variant=job.variant,
    )
    return desk, local, memory, refetched


def _public(store: Store, plan: Plan) -> Examples | None:
    if plan.public is None:
        return None
    images = checkpoint.unpack_state(store.get(plan.public))[0]["images"].numpy()
    unknown = np.zeros(len(images), np.int64)
    return Examples(images=images, labels=unknown, groups=np.zeros(len(images), np.int16))


def _alive(moments: StateDict, desk: MethodDesk, mask: Mask | None) -> StateDict:
    """Zero the moments of what is dead by now, since they alone would move it off zero."""
    support = desk.method.support(desk, mask, "slices")
    parts = (state.as_section(support, part) for part in optimisers.PARTS)
    return masks.apply(moments, {name: kept for part in parts for name, kept in part.items()})


def _cuts_of_moments(cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    parts = optimisers.PARTS
    return {f"{part}/{name}": kept for part in parts for name, kept in cuts.items()}


def _cuts_of_copy(cuts: Mapping[str, Cut]) -> dict[str, Cut]:
    return {f"{COPY}.{name}": kept for name, kept in cuts.items()}


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
    data: frame.Buffer,
    decode: Callable[[frame.Buffer], Payload],
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
