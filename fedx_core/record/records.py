"""What a run writes down, round by round: plain, frozen values, each one line of JSON.

:mod:`fedx_core.record.journal` says where each lies and in which order they come.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedx_core.wire.messages import ClientFailure, ClientReport, Ref, RoundReport


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's identity.

    Args:
        protocol: :data:`fedx_core.wire.messages.PROTOCOL` of the server that began it.
        version: of FedX, for people.
        name: of the run.
        config: effective settings, plain.
        branched_from: ``RUN@ROUND`` whose rounds this run shares, or empty.
        data: content of its data by part, see :mod:`fedx_core.images.contents`; empty where an
            earlier version began it.
    """

    protocol: int
    version: str
    name: str
    config: Any
    branched_from: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A round has begun.

    Args:
        round_index: from 1.
        state: of the server before it.
        base: the first client's downlink payload.
        cohort: clients that are asked, in order.
        other_bases: payloads of clients that are sent something else.
        change: what leads from the round before's base to this one's, where downlinks are lossy.
    """

    round_index: int
    state: Ref
    base: Ref
    cohort: tuple[str, ...]
    other_bases: tuple[Ref, ...] = ()
    change: Ref | None = None


@dataclass(frozen=True, kw_only=True)
class Late:
    """An update that counts after its own round; see :mod:`fedx_core.rounds.staleness`.

    Args:
        round_index: its own.
        discount: what is left of its weight.
    """

    round_index: int
    discount: float


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Who counts in a round, in cohort order, and who does not.

    Args:
        round_index: from 1.
        reports: that count.
        failures: of clients that don't, each its last.
        refused: bytes of updates that were stored and refused, over all attempts, by client.
        norms: of this round, see :mod:`fedx_core.rounds.outliers`: the median change of the
            weights and of the statistics, and how far the model was moved.
        scales: by client whose change was too large: what is left of it, by part.
        remarks: by client that counts: what was odd.
        late: by client whose update counts and is of an earlier round. Those come after the cohort,
            the oldest first; their hashes are in their reports.
    """

    round_index: int
    reports: tuple[ClientReport, ...]
    failures: tuple[ClientFailure, ...]
    refused: Mapping[str, int] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    scales: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    late: Mapping[str, Late] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What came of a question that a round asked beside training.

    Args:
        round_index: from 1.
        question: number among them, from 1.
        ask: a file of ``fedx_core/asks``.
        bases: payloads that clients were sent.
        reports: that count, in the order in which clients were asked.
        failures: of clients that don't count, each its last.
        refused: bytes of answers that were stored and refused, over all attempts, by client.
    """

    round_index: int
    question: int
    ask: str
    bases: tuple[Ref, ...]
    reports: tuple[ClientReport, ...]
    failures: tuple[ClientFailure, ...]
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What a client holds since it last counted.

    Args:
        mask: digest of the mask.
        memory: what it keeps for itself.
        base: the round whose base it holds; 0 for none. Only lossy downlinks have clients keep it.
    """

    mask: str = ""
    memory: Ref | None = None
    base: int = 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a pruning event saw and decided; kept for as long as the run is.

    Args:
        before: the server's state that was pruned.
        scores: of its units, and what was kept of them.
    """

    before: Ref
    scores: Ref


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A round is done; its state is the checkpoint. Round 0 is the start of a run."""

    round_index: int
    plan: Ref
    state: Ref
    report: RoundReport
    holdings: Mapping[str, Holding] = field(default_factory=dict)
    evidence: Evidence | None = None

    def outline(self) -> "Commit":
        """Leave out what is said of single clients, which for all rounds would fill the memory."""
        report = replace(
            self.report, cohort=(), failures=(), traffic={}, per_client={}, client_metrics={}
        )
        return replace(self, report=report, holdings={})


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """The run goes on after an earlier round; those after it are void, and stay where they are.

    Args:
        to: the last round that holds.
        last: the last round that was committed when it was rolled back.
    """

    to: int
    last: int
