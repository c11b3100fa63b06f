"""What passes between server and client: plain, small, frozen; tensors travel as bytes in a store.

As values of JSON (:mod:`fedx_core.base.frozen_json`) they survive files, pickling, Prefect's
parameters and Dask alike.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedx_core.base.state import Payload, StateDict
from fedx_core.pruning.masks import Mask, kept_count, pack
from fedx_core.wire.domains import Domain

PROTOCOL = 1
"""Version of jobs, payloads, journal and run folders; peers of another one are refused."""

POOLED = "pooled"
"""Name of the pretended client that owns every client's training part."""

LARGEST_MESSAGE = 1 << 20
"""Bytes that a plan or a report may have."""

LARGEST_RECORD = 1 << 26
"""Bytes that a record of the journal may have; it grows with the clients."""


@dataclass(frozen=True)
class Ref:
    """An object in a store: logical key, content hash and length; never a URL."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Entry:
    """One tensor of a payload.

    Args:
        name: ``section/name``.
        dtype: as torch prints it.
        shape: of the whole tensor.
        domain: what its values may be; an uplink's entries all say it. It is no part of the digest,
            since the receiver alone decides.
        exact: its values travel as they are, whatever the codec: they are no parameters.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    domain: Domain | None = None
    exact: bool = False


@dataclass(frozen=True)
class Schema:
    """What a payload holds, in order; both sides derive it, so only values travel.

    Args:
        entries: tensors in the order of their bytes.
        support: bool tensors that broadcast to their entries' shapes, True = kept; entries without
            one are whole.
        flips: for an entry, the bool entry before it that says where the sender departs from the
            support: what is True there travels though the support leaves it out, or stays away
            though it keeps it. So senders may choose what they send, at a bit a choice.
    """

    entries: tuple[Entry, ...]
    support: Mapping[str, Tensor] = field(default_factory=dict)
    flips: Mapping[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def digest(self) -> bytes:
        """Name the schema by 32 bytes."""
        hasher = hashlib.sha256()
        for entry in self.entries:
            hasher.update(f"{entry.name}:{entry.dtype}:{entry.shape};".encode())
            if entry.name in self.support:
                kept = self.support[entry.name]
                hasher.update(f"{tuple(kept.shape)}".encode() + pack(kept))
            if entry.name in self.flips:
                hasher.update(f"flipped by {self.flips[entry.name]};".encode())
        return hasher.digest()

    def settled(self, entry: Entry, payload: Mapping[str, Tensor]) -> "Schema":
        """Return the same with an entry's support as a payload's sender departs from it."""
        if entry.name not in self.flips:
            return self
        flipped = payload[self.flips[entry.name]]
        if flipped.numel() == 1:
            flipped = flipped.reshape([1] * len(entry.shape))
        kept = self.support.get(entry.name, torch.ones_like(flipped)) ^ flipped
        return dataclasses.replace(self, support={**self.support, entry.name: kept})

    def kept(self, entry: Entry) -> int:
        """Count the values of one entry that travel; asked for several times a payload."""
        if entry.name not in self._counts:
            self._counts[entry.name] = (
                kept_count(self.support[entry.name], entry.shape)
                if entry.name in self.support
                else math.prod(entry.shape)
            )
        return self._counts[entry.name]


@dataclass(frozen=True, kw_only=True)
class ClientJob:
    """One client's work in one round: names, hashes and a seed, less than a kilobyte of JSON.

    Args:
        protocol: :data:`PROTOCOL` of the server.
        run: name of the run.
        round_index: from 1; 0 for jobs before the first round.
        client: whose job it is.
        attempt: 0, then 1 for the first retry.
        seed: of all the client's draws in this round; the same for every attempt.
        purpose: what is asked: a file of ``fedx_core/asks``.
        plan: how to train: model, settings, method, codec.
        base: the downlink payload, whole; None where the purpose needs none.
        changes: what leads to it from what this client held last, or from the plan's first model
            if it never held any, oldest first; None where the client is to fetch ``base``. If it
            does not lead there, the client fetches ``base`` all the same.
        mask: the mask that payloads follow; None where nothing is pruned.
        schema: digest of the downlink's schema, hexadecimal.
        memory: what this client stored for itself when it last counted.
        uplink_key: where the client's payload goes, write-once.
        deadline: seconds that the client has; 0 for ever.
        grace: seconds that it has on top while too few of its cohort have reported.
        variant: which of the method's payloads this client exchanges; see ``Method.variant``.
        public: images that the plan names, which the client fetches once.
    """

    protocol: int
    run: str
    round_index: int
    client: str
    attempt: int
    seed: int
    purpose: str
    plan: Ref
    base: Ref | None
    mask: Ref | None
    schema: str
    memory: Ref | None
    uplink_key: str
    deadline: float
    variant: str = ""
    grace: float = 0.0
    changes: tuple[Ref, ...] | None = None
    public: Ref | None = None

    @property
    def named(self) -> tuple[Ref, ...]:
        """Name what the client may fetch of the run's store."""
        named = (self.plan, self.base, self.mask, self.public, *(self.changes or ()))
        return tuple(ref for ref in named if ref is not None)

    @property
    def fetched(self) -> int:
        """Bytes of the downlink for a client that can follow its changes."""
        if self.changes is not None:
            return sum(change.size for change in self.changes)
        return self.base.size if self.base else 0

    @property
    def report_key(self) -> str:
        """Where the client's report lies, beside its payload."""
        return f"{self.uplink_key}.report"


@dataclass(frozen=True, kw_only=True)
class ClientReport:
    """What a client says of its work; the tensors are in the store.

    Args:
        client: who reports.
        attempt: of the job.
        purpose: of the job.
        uplink: the payload; None where the purpose or the method sends none.
        examples: images trained or evaluated on.
        metrics: numbers such as ``train_loss``; for statistics, counts and sums.
        memory: what the client stored for itself.
        seconds: wall time of the job.
        variant: of the job.
        refetched: the job's changes did not lead to its base, so that was fetched too.
    """

    client: str
    attempt: int
    purpose: str
    uplink: Ref | None
    examples: int
    metrics: Mapping[str, float | list[float]]
    memory: Ref | None
    seconds: float
    variant: str = ""  # rounds closed before methods had several lack it
    refetched: bool = False


@dataclass(frozen=True, kw_only=True)
class ClientFailure:
    """A client that did not count: a value, counted and logged, not an exception.

    Args:
        client: who was lost.
        attempt: which try this was.
        reason: what went wrong, with the error's code.
        sent: bytes of an update that was stored and refused.
        late: it was given up; what it still stores is kept, and never counted.
        refused: it answered, and the answer could not be taken.
        since: round of the job that it is still at, whose update may count in the next round; 0
            where none may (:mod:`fedx_core.rounds.staleness`).
    """

    client: str
    attempt: int
    reason: str
    sent: int = 0
    late: bool = False
    refused: bool = False
    since: int = 0


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one client in one round, by ``len(payload)``.

    Args:
        downlink: of the model that was fetched.
        uplink: of the update that counted, or of statistics.
        mask: of the mask, charged when the client did not hold it yet.
        retry: of failed and repeated attempts, both directions.
        evaluation: of models fetched to be scored on the client's own test part, and of counts of
            pixels that come back; no training.
    """

    downlink: int = 0
    uplink: int = 0
    mask: int = 0
    retry: int = 0
    evaluation: int = 0

    @property
    def total(self) -> int:
        """All that training cost."""
        return self.downlink + self.uplink + self.mask + self.retry


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One round in plain numbers.

    Args:
        round_index: from 1.
        rounds: planned in all.
        cohort: clients that were asked.
        failures: clients that did not count, with the reason.
        metrics: of the server's test set at the end of the round.
        metrics_before_pruning: the same before this round's pruning; empty where nothing was.
        pruned: whether a pruning event took place.
        traffic: wire ledger: bytes by client.
        paper_bytes: paper ledger: parameter bytes of this round after the convention of the
            paper's Table I, both directions and all clients; no masks, buffers or headers.
        dense_bytes: what FedAvg in float32 would have sent to the clients that counted, and as much
            back; see :func:`fedx_core.record.ledger.dense_bytes`. 0 in rounds of earlier versions.
        sparsity: share of prunable parameters that are dead at the end of the round.
        units_kept: (kept, all) by layer; parameters where the mask is over parameters.
        train_loss: mean over clients, weighted by examples.
        seconds: wall time by step.
        per_class: test metric by class name, in the last round.
        per_client: metrics by client on its own test part, with ``examples``, in the last round.
        client_metrics: what each client reported of its training.
        validation: metrics of the tuning set at the end of the round, where one is asked for.
        best_round: best so far by validation; 0 where none is asked for.
        stopped: why the run ended with this round before all were done; empty where it did not.
        method_metrics: the method's own numbers, see ``Method.measured``; and what its clients say
            besides their loss, averaged by examples.
        norms: how far clients and server moved; see :class:`fedx_core.record.records.Closed`.
        remarks: by client that counts: what was odd, such as a change that was scaled down.
    """

    round_index: int
    rounds: int
    cohort: tuple[str, ...]
    failures: tuple[ClientFailure, ...]
    metrics: Mapping[str, float]
    metrics_before_pruning: Mapping[str, float]
    pruned: bool
    traffic: Mapping[str, Traffic]
    paper_bytes: int
    sparsity: float
    units_kept: Mapping[str, tuple[int, int]]
    train_loss: float
    seconds: Mapping[str, float]
    per_class: Mapping[str, float] = field(default_factory=dict)
    per_client: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    client_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    best_round: int = 0
    stopped: str = ""
    method_metrics: Mapping[str, float] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    dense_bytes: int = 0

    @property
    def downlink_bytes(self) -> int:
        """Model bytes sent to clients, masks left out."""
        return sum(t.downlink for t in self.traffic.values())

    @property
    def uplink_bytes(self) -> int:
        """Update bytes received from clients."""
        return sum(t.uplink for t in self.traffic.values())

    @property
    def mask_bytes(self) -> int:
        """Mask bytes sent to clients that did not hold the mask yet."""
        return sum(t.mask for t in self.traffic.values())

    @property
    def retry_bytes(self) -> int:
        """Bytes of failed and repeated attempts."""
        return sum(t.retry for t in self.traffic.values())

    @property
    def wire_bytes(self) -> int:
        """All bytes that the round's training cost."""
        return sum(t.total for t in self.traffic.values())

    @property
    def evaluation_bytes(self) -> int:
        """Bytes of models fetched only to be scored at clients, and of what comes of that."""
        return sum(t.evaluation for t in self.traffic.values())


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a client learned.

    Args:
        client: who learned it.
        payload: sections by name; see ``Method.schema``.
        examples: images it was learned from.
        discount: what is left of its weight, since it is late; see
            :mod:`fedx_core.rounds.staleness`.
        metrics: plain numbers for the report.
        memory: what the client keeps for its next round; None for nothing.
        mask: that its client alone, or a group of clients, worked under; None where it was the
            server's.
    """

    client: str
    payload: Payload
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory: StateDict | None = None
    mask: Mask | None = None
    discount: float = 1.0

    @property
    def weight(self) -> float:
        """Weight in the round's mean."""
        return self.examples * self.discount


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What the server knows after a round; dense, dead entries zero.

    Args:
        round_index: completed rounds.
        model: all entries of the model, buffers too.
        mask: what is kept; None before the first pruning.
        memory: what the method carries from round to round (moments, thresholds, old weights).
        held: the payload that clients hold since the round's downlink, where that is lossy.
    """

    round_index: int
    model: StateDict
    mask: Mask | None = None
    memory: StateDict = field(default_factory=dict)
    held: Payload = field(default_factory=dict)
