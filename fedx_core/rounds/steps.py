"""One round, step by step: dispatch, train, aggregate, relevance, prune, evaluate, commit.

    server    dispatch   encode state and mask into the store, name the cohort, write jobs:
                         :mod:`fedx_core.rounds.dispatching`
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

import torch
from torch import Tensor, nn

from fedx_core.asks.base import Ask
from fedx_core.base import plugins, state
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import FedXError, ObjectMissingError, PayloadError, StoreError
from fedx_core.base.state import StateDict
from fedx_core.clients import exchange
from fedx_core.clients.client import train
from fedx_core.clients.plan import MethodDesk
from fedx_core.desk.plan import Plan
from fedx_core.images.examples import Description, Examples
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Scores
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Answered, Closed, Commit, Evidence, Holding, Late
from fedx_core.recovery.base import Recovery
from fedx_core.rounds import outliers, staleness
from fedx_core.store import Store, put_by_hash
from fedx_core.wire import acceptance, frame
from fedx_core.wire.messages import (
    ClientFailure,
    ClientJob,
    ClientReport,
    Ref,
    RoundReport,
    ServerState,
    Update,
)

__all__ = [
    "Server",
    "accept",
    "aggregate",
    "commit",
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
        desk: model, method, codec.
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
    desk: MethodDesk
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


def accept(
    server: Server, job: ClientJob, report: ClientReport, before: ServerState
) -> tuple[ClientReport | ClientFailure, Update | None]:
    """Believe a report only after its payload was fetched, and each value found where it may lie.

    Args:
        server: see :class:`Server`.
        job: that it answers.
        report: as it came.
        before: state that the round began with; the client of a job of an earlier round was sent
            that round's.

    Returns:
        The report with its update, if it has one; or what is wrong with it.
    """
    update = None
    try:
        method, ask = server.desk.method, asked(job.purpose)
        owned = server.clients if ask.part == "train" else server.tested
        most = owned.get(job.client, sum(owned.values()))
        said = ask.says(method, server.description.label_kind)
        acceptance.check(report, job, most, said, may_be_empty=ask.may_be_empty)
        if not ask.updates:
            update = answered(server.store, ask, server.desk.plan, report)
            ask.check(update, server.description)
        else:
            is_late = job.round_index <= before.round_index
            sent = state_before(server, job.round_index) if is_late else before
            update = _decode_update(server, report, sent)
            own = server.desk.method.mask_for(server.desk, sent, report.variant)
            schema = server.desk.wire(own, report.variant).up
            acceptance.check_payload(update.payload, schema, report.client)
            method.check_update(sent, update, server.desk)
            acceptance.check_norm(update, server.config.federation.max_update_norm)
            if is_late:
                update = staleness.brought_up(server.desk, sent, before, update)
        return report, update
    except FedXError as error:
        if isinstance(error, StoreError) and not isinstance(error, ObjectMissingError):
            raise  # that the server can't reach its store is no fault of the client's
        return refusal(job, report, error), None


def state_before(server: Server, round_index: int) -> ServerState:
    """Return the state that an earlier round began with, whose clients are still at work."""
    opened = server.journal.opened(round_index)
    assert opened is not None
    return checkpoint.unpack_server_state(server.store.get(opened.state))


def answered(store: Store, ask: Ask, plan: Plan, report: ClientReport) -> Update:
    """Fetch and decode what answers a question that asks for no update of the model.

    Raises:
        PayloadError: it is missing, or not what the question's schema says.
    """
    schema = ask.schema(plan)
    payload: StateDict = {}
    if schema.entries:
        if report.uplink is None:
            raise PayloadError(
                f"{report.client} sent no payload, and was asked to {ask.verb}; install one "
                "version of FedX at server and clients"
            )
        frame.require_length(report.uplink, frame.lengths(schema))
        payload = frame.decode(store.get(report.uplink), schema, "dense")
        acceptance.check_payload(payload, schema, report.client)
    return Update(
        client=report.client,
        payload=payload,
        examples=report.examples,
        metrics={
            name: value for name, value in report.metrics.items() if not isinstance(value, list)
        },
    )


def asked(purpose: str) -> Ask:
    """Return a question by its name."""
    ask: Ask = plugins.build("asks", purpose, {})
    return ask


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
        before: state that their clients were sent, but for those of earlier rounds.
        scales: see :class:`fedx_core.record.records.Closed`.
        late: likewise.
    """

    server: Server
    reports: tuple[ClientReport, ...]
    before: ServerState
    scales: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    late: Mapping[str, Late] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reports)

    def __iter__(self) -> Iterator[Update]:
        desk = self.server.desk
        for report in self.reports:
            update = self._decoded(report)
            scales = self.scales.get(report.client, {})
            yield outliers.shortened(desk.method, self.before, update, desk, scales)
            del update

    def _decoded(self, report: ClientReport) -> Update:
        if (late := self.late.get(report.client)) is None:
            return _decode_update(self.server, report, self.before)
        began = state_before(self.server, late.round_index)
        update = _decode_update(self.server, report, began)
        return staleness.brought_up(self.server.desk, began, self.before, update)


def all_there(server: Server, closed: Closed | Answered) -> bool:
    """Tell whether the store still holds every payload that counts, to the byte."""
    try:
        for report in closed.reports:
            if report.uplink is not None:
                server.store.get(report.uplink)
    except (ObjectMissingError, PayloadError):
        return False
    return True


def aggregate(server: Server, server_state: ServerState, closed: Closed) -> ServerState:
    """Combine the updates that count; a pure function of the closed round.

    Args:
        server: see :class:`Server`.
        server_state: that clients were sent.
        closed: who counts.
    """
    return recalibrated(server, combine(server, server_state, closed))


def combine(server: Server, before: ServerState, closed: Closed) -> ServerState:
    """Combine the updates that a closed round names, as it says."""
    updates = StoredUpdates(
        server=server,
        reports=closed.reports,
        before=before,
        scales=closed.scales,
        late=closed.late,
    )
    return server.desk.method.settle_each(server.desk, before, updates)


def recalibrated(server: Server, server_state: ServerState) -> ServerState:
    """Measure BatchNorm's statistics on the reference set, unless clients' are averaged.

    Averaged weights have other activations than the models whose statistics would be averaged. The
    whole set passes as one batch, since each layer is normalised by the statistics of the layers
    before it: so mean and variance are those of all its pixels, however images would be cut into
    batches. Without gradients that takes less memory than to explain one batch does.
    """
    desk, model = server.desk, server.desk.model
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if server.config.training.batch_norm == "aggregate" or not norms:
        return server_state
    model.load_state_dict(server_state.model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # take the batch's own, and mix in nothing
    model.train()
    with torch.no_grad():
        desk.objective.embedded(model, desk.reference_set().images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    measured = state.copy(model.state_dict())
    support = desk.method.support(desk, server_state.mask, "slices") if server_state.mask else {}
    buffers = {n: v for n, v in measured.items() if n not in desk.graph.parameters}
    return dataclasses.replace(
        server_state, model={**server_state.model, **masks.apply(buffers, support)}
    )


def relevance(
    server: Server, server_state: ServerState, history: Sequence[RoundReport] = ()
) -> Scores | None:
    """Score what the method's pruner looks at, if it is due; None if it is not.

    Args:
        server: see :class:`Server`.
        server_state: that the round's updates led to.
        history: reports of the rounds before it.
    """
    pruner = server.desk.method.parts.pruner
    if not pruner.due(server_state, history):
        return None
    return pruner.scores(server.desk, server_state)


def prune(
    server: Server, server_state: ServerState, scores: Scores | None
) -> tuple[ServerState, Evidence | None]:
    """Turn scores into a mask, and keep what led to it; without scores nothing changes."""
    if scores is None:
        return server_state, None
    pruner = server.desk.method.parts.pruner
    mask = pruner.choose(server.desk, server_state, scores)
    evidence = checkpoint.put_evidence(server.store, server_state, scores, mask)
    pruned = pruner.pruned(server.desk, server_state, mask)
    recovery: Recovery = server.config.recovery.build("recovery")
    support = server.desk.method.support(server.desk, mask, "slices")
    mended = recovery.recovered(server.desk, server_state, pruned, support)
    return recalibrated(server, mended), evidence


def evaluate(server: Server, server_state: ServerState, part: Examples) -> Tensor:
    """Predict one of the server's sets: logits, float32 (n, classes)."""
    desk = server.desk
    model = desk.loaded(server_state.model, server_state.mask)
    return desk.predict(model, part, server.workers)


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


def _decode_update(server: Server, report: ClientReport, before: ServerState) -> Update:
    mask = server.desk.method.mask_for(server.desk, before, report.variant)
    schema = server.desk.wire(mask, report.variant).up
    payload: StateDict = {}
    if schema.entries:
        if report.uplink is None:
            raise PayloadError(f"{report.client} reports no payload, wanted one")
        desk = server.desk
        frame.require_length(report.uplink, desk.up.lengths(schema))
        sent = desk.method.downlink(before, desk, report.variant) if desk.up.lossy else {}
        payload = exchange.decode(desk.up, server.store.get(report.uplink), sent, schema)
    return Update(
        client=report.client,
        payload=payload,
        examples=report.examples,
        mask=None if mask is before.mask else mask,
    )
