"""One round, step by step: dispatch, train, aggregate, relevance, prune, evaluate, commit.

    server    dispatch   encode state and mask into the store, name the cohort, write jobs
    clients   train      fetch, train on their shard, store an update, report
    server    accept     refuse what is late, malformed or not finite
              aggregate  average what counts, one update in memory at a time
              relevance  explain the model on the reference set, if the method asks
              prune      scores to a mask
              evaluate   score the server's test set
              commit     state by its hash: the checkpoint

Steps are functions of their arguments. Tensors reach a client only as bytes in a store, so a round
reads the same in one process, on a task runner and at separate sites.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedx_core import acceptance, checkpoint, evaluation, masks, outliers, seeding, state
from fedx_core.client import train
from fedx_core.codec import base as framing
from fedx_core.config import ExperimentConfig
from fedx_core.errors import FedXError, ObjectMissingError, PayloadError, StoreError
from fedx_core.examples import Description, Examples
from fedx_core.journal import Closed, Commit, Evidence, Holding, Journal, Opened
from fedx_core.masks import Scores
from fedx_core.messages import (
    PROTOCOL,
    ClientFailure,
    ClientJob,
    ClientReport,
    Purpose,
    Ref,
    RoundReport,
    ServerState,
    Update,
)
from fedx_core.methods.base import Turn
from fedx_core.plan import Workbench
from fedx_core.relevance.base import Reference
from fedx_core.state import StateDict
from fedx_core.store import Store, put_by_hash

__all__ = [
    "Server",
    "accept",
    "aggregate",
    "commit",
    "dispatch",
    "evaluate",
    "prune",
    "relevance",
    "train",
]


@dataclass(frozen=True, kw_only=True)
class Server:
    """All that the server's steps need; opened once a process.

    Args:
        run: its name.
        config: the whole experiment.
        bench: model, method, codec.
        plan: where the plan lies.
        store: shared with the clients.
        journal: in that store.
        description: of the data.
        clients: numbers of training examples by client.
        tested: numbers of test examples by client.
        reference: the server's reference set.
        tuning: the rest of the validation split.
        test: the test split, for reporting only.
        workers: threads for evaluation; they change no result.
        audit: folder whose ``audit.jsonl`` gets a line for each attempt that does not count.
    """

    run: str
    config: ExperimentConfig
    bench: Workbench
    plan: Ref
    store: Store
    journal: Journal
    description: Description
    clients: Mapping[str, int]
    tested: Mapping[str, int]
    reference: Examples
    tuning: Examples
    test: Examples
    workers: int
    audit: Path | None = None


def dispatch(
    server: Server, server_state: ServerState, state_ref: Ref, holdings: Mapping[str, Holding]
) -> tuple[ClientJob, ...]:
    """Choose the cohort, put state and mask into the store, and write the jobs.

    Args:
        server: see :class:`Server`.
        server_state: after the previous round.
        state_ref: where that state lies.
        holdings: what each client holds.
    """
    round_index = server_state.round_index + 1
    cohort = server.bench.method.cohort(
        list(server.clients),
        server.config.federation.participation,
        round_index,
        server.config.seed,
    )
    jobs = jobs_for(server, server_state, cohort, round_index, "train", holdings)
    base, *others = bases(jobs)
    server.journal.open(
        Opened(
            round_index=round_index,
            state=state_ref,
            base=base,
            cohort=cohort,
            other_bases=tuple(others),
        )
    )
    return jobs


def jobs_for(
    server: Server,
    server_state: ServerState,
    clients: Sequence[str],
    round_index: int,
    purpose: Purpose,
    holdings: Mapping[str, Holding],
) -> tuple[ClientJob, ...]:
    """Put what clients need into the store, once for each variant, and write one job each."""
    bench = server.bench
    mask = checkpoint.put_mask(server.store, server_state.mask)
    folder = "uplink" if purpose == "train" else purpose
    places = {client: place for place, client in enumerate(server.clients)}
    mark = server.journal.mark(round_index)
    sent: dict[str, tuple[Ref, str]] = {}
    jobs = []
    for client in clients:
        memory = holdings[client].memory if client in holdings else None
        turn = Turn(
            client=client,
            place=places.get(client, 0),
            round_index=round_index,
            purpose=purpose,
            returning=memory is not None,
        )
        variant = bench.method.variant(turn, bench.info)
        if variant not in sent:
            schema = bench.wire(server_state.mask, variant).down
            payload = bench.method.downlink(server_state, bench.info, variant)
            data = bench.codec.encode(payload, schema)
            # A folder for each round, so that tidying one up takes nothing from the next.
            stored = put_by_hash(server.store, f"downlink/{mark}", data)
            sent[variant] = stored, schema.digest.hex()
        base, digest = sent[variant]
        jobs.append(
            ClientJob(
                protocol=PROTOCOL,
                run=server.run,
                round_index=round_index,
                client=client,
                attempt=0,
                seed=seeding.derive(server.config.seed, round_index, client, "train"),
                purpose=purpose,
                plan=server.plan,
                base=base,
                mask=mask,
                schema=digest,
                memory=memory,
                uplink_key=f"{folder}/{mark}/{client}.0",
                deadline=server.config.federation.round_timeout,
                grace=server.config.federation.grace if purpose == "train" else 0.0,
                variant=variant,
            )
        )
    return tuple(jobs)


def bases(jobs: Sequence[ClientJob]) -> tuple[Ref, ...]:
    """Name the downlink payloads of some jobs, each once, in the jobs' order."""
    return tuple(dict.fromkeys(job.base for job in jobs if job.base is not None))


def next_attempt(job: ClientJob) -> ClientJob:
    """Write the same job for another attempt: same seed, other keys."""
    stem, _, _ = job.uplink_key.rpartition(".")
    attempt = job.attempt + 1
    return dataclasses.replace(job, attempt=attempt, uplink_key=f"{stem}.{attempt}")


def accept(
    server: Server, job: ClientJob, report: ClientReport, before: ServerState
) -> tuple[ClientReport | ClientFailure, Update | None]:
    """Believe a report only after its payload was fetched, and each value found where it may lie.

    Args:
        server: see :class:`Server`.
        job: that it answers.
        report: as it came.
        before: state that the client was sent.

    Returns:
        The report with its update, if it has one; or what is wrong with it.
    """
    update = None
    try:
        method, trains = server.bench.method, job.purpose == "train"
        owned = server.clients if trains else server.tested
        most = owned.get(job.client, sum(owned.values()))
        scores = evaluation.SCORES[server.description.label_kind]
        acceptance.check(report, job, most, method.says if trains else scores)
        if trains:
            update = _decode_update(server, report, before)
            schema = server.bench.wire(before.mask, report.variant).up
            acceptance.check_payload(update.payload, schema, report.client)
            method.check_update(before, update, server.bench.info)
            acceptance.check_norm(update, server.config.federation.max_update_norm)
        return report, update
    except FedXError as error:
        if isinstance(error, StoreError) and not isinstance(error, ObjectMissingError):
            raise  # that the server can't reach its store is no fault of the client's
        return refusal(job, report, error), None


def refusal(job: ClientJob, report: ClientReport, error: FedXError) -> ClientFailure:
    """Say why a report that came does not count."""
    return ClientFailure(
        client=job.client,
        attempt=job.attempt,
        reason=f"{error.code}: {error}",
        sent=report.uplink.size if report.uplink else 0,
        refused=True,
    )


@dataclass(frozen=True, kw_only=True)
class StoredUpdates:
    """A round's updates in cohort order; each is fetched and decoded when its turn comes.

    They are those that were accepted, by their hashes, so what was looked at then holds.

    Args:
        server: see :class:`Server`.
        reports: of the updates.
        before: state that their clients were sent.
        scales: see :class:`fedx_core.journal.Closed`.
    """

    server: Server
    reports: tuple[ClientReport, ...]
    before: ServerState
    scales: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reports)

    def __iter__(self) -> Iterator[Update]:
        bench = self.server.bench
        for report in self.reports:
            update = _decode_update(self.server, report, self.before)
            scales = self.scales.get(report.client, {})
            yield outliers.shortened(bench.method, self.before, update, bench.info, scales)
            del update


def all_there(server: Server, closed: Closed) -> bool:
    """Tell whether the store still holds every update that counts, to the byte."""
    try:
        for report in closed.reports:
            if report.uplink is not None:
                server.store.get(report.uplink)
    except (ObjectMissingError, PayloadError):
        return False
    return True


def aggregate(
    server: Server, server_state: ServerState, closed: Closed, combined: ServerState | None = None
) -> ServerState:
    """Combine the updates that count; a pure function of the closed round.

    Args:
        server: see :class:`Server`.
        server_state: that clients were sent.
        closed: who counts.
        combined: what their updates lead to, where that was worked out as they came.
    """
    if combined is None:
        combined = combine(server, server_state, closed)
    return recalibrated(server, combined)


def combine(server: Server, before: ServerState, closed: Closed) -> ServerState:
    """Combine the updates that a closed round names, as it says."""
    updates = StoredUpdates(
        server=server, reports=closed.reports, before=before, scales=closed.scales
    )
    return server.bench.method.aggregate(before, updates, server.bench.info)


def recalibrated(server: Server, server_state: ServerState) -> ServerState:
    """Measure BatchNorm's statistics on the reference set, unless clients' are averaged.

    Averaged weights have other activations than the models whose statistics would be averaged. The
    whole set passes as one batch, since each layer is normalised by the statistics of the layers
    before it: so mean and variance are those of all its pixels, however images would be cut into
    batches. Without gradients that takes less memory than to explain one batch does.
    """
    model, info = server.bench.model, server.bench.info
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if server.config.training.batch_norm == "aggregate" or not norms:
        return server_state
    model.load_state_dict(server_state.model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # take the batch's own, and mix in nothing
    model.train()
    with torch.no_grad():
        model(_reference(server).images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    measured = state.copy(model.state_dict())
    support = (
        server.bench.method.support(info, server_state.mask, "slices") if server_state.mask else {}
    )
    buffers = {n: v for n, v in measured.items() if n not in info.graph.parameters}
    return dataclasses.replace(
        server_state, model={**server_state.model, **masks.apply(buffers, support)}
    )


def relevance(server: Server, server_state: ServerState) -> Scores | None:
    """Score the units by the criterion that the method names; None if it names none."""
    bench = server.bench
    criterion = bench.method.criterion(server_state)
    if criterion is None:
        return None
    bench.model.load_state_dict(bench.method.explained(server_state, bench.info))
    return criterion.score(
        bench.model,
        bench.info.graph,
        bench.entry,
        _reference(server),
        seed=seeding.derive(server.config.seed, server_state.round_index, "relevance"),
        batch_size=_batch_size(server),
    )


def prune(
    server: Server, server_state: ServerState, scores: Scores | None
) -> tuple[ServerState, Evidence | None]:
    """Turn scores into a mask, and keep what led to it; without scores nothing changes."""
    if scores is None:
        return server_state, None
    pruned = server.bench.method.prune(server_state, scores, server.bench.info)
    evidence = None
    if pruned.mask is not None:
        evidence = checkpoint.put_evidence(server.store, server_state, scores, pruned.mask)
    return recalibrated(server, pruned), evidence


def evaluate(server: Server, server_state: ServerState, part: Examples) -> Tensor:
    """Predict one of the server's sets: logits, float32 (n, classes)."""
    bench = server.bench
    return evaluation.predict(
        bench.loaded(server_state.model, server_state.mask),
        part,
        pixels=bench.plan.pixels,
        batch_size=_batch_size(server),
        device=bench.device,
        workers=server.workers,
    )


def commit(
    server: Server,
    server_state: ServerState,
    report: RoundReport,
    holdings: Mapping[str, Holding],
    evidence: Evidence | None,
) -> Commit:
    """Keep the state under its hash and write the checkpoint."""
    record = Commit(
        round_index=server_state.round_index,
        plan=server.plan,
        state=put_by_hash(server.store, "states", checkpoint.pack_server_state(server_state)),
        report=report,
        holdings=holdings,
        evidence=evidence,
    )
    server.journal.commit(record)
    return record


def _reference(server: Server) -> Reference:
    pixels = server.bench.plan.pixels
    targets = torch.from_numpy(np.array(server.reference.labels))
    return Reference(
        pixels.to_input(server.reference.images, torch.device("cpu")),
        targets.long() if server.description.label_kind == "single" else targets,
    )


def _batch_size(server: Server) -> int:
    return server.config.training.eval_batch_size


def _decode_update(server: Server, report: ClientReport, before: ServerState) -> Update:
    schema = server.bench.wire(before.mask, report.variant).up
    payload: StateDict = {}
    if schema.entries:
        if report.uplink is None:
            raise PayloadError(f"{report.client} reports no payload, wanted one")
        framing.require_length(report.uplink, schema)
        payload = server.bench.codec.decode(server.store.get(report.uplink), schema)
    return Update(client=report.client, payload=payload, examples=report.examples)
