"""One round from top to bottom: the method's conversation with its clients, and what it leads to.

    dispatch ─▶ train ─▶ aggregate   once for the question that asks to train
    dispatch ─▶ train                for each other question, before it or after it
    relevance ─▶ prune ─▶ evaluate ─▶ commit

Whatever was closed in the journal before a server was killed is read from there, so the generator
that asks is replayed on the same answers and ends in the same bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import fmean

from fedx_core.base.errors import FedXError, LostRaceError, RunError, StoreError
from fedx_core.clients.client import Place
from fedx_core.desk.conversation import Answers, Question
from fedx_core.record import ledger
from fedx_core.record.journal import Journal
from fedx_core.record.records import Answered, Closed, Commit, Holding
from fedx_core.rounds import dispatching, downlink, steps
from fedx_core.rounds.arriving import Cohort
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.cohort import Gathered, aggregate, gather, number
from fedx_core.rounds.conclude import Clock, finish
from fedx_core.rounds.late import still_at_work
from fedx_core.rounds.steps import Server
from fedx_core.wire.messages import ClientJob, RoundReport, ServerState, Traffic

AGE = "staleness"
"""Number of a late update, and of a round's mean: rounds since its client was asked."""


def play(
    server: Server,
    carrier: Carrier,
    place: Place,
    before: ServerState,
    commits: Sequence[Commit],
    check_data: Callable[[], None],
) -> tuple[ServerState, Commit]:
    """Play one round, or what of it is missing.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        carrier: who carries the work.
        place: where clients find things.
        before: state that the round begins with.
        commits: of all rounds before, outlines but for the last.
        check_data: refuses what clients have learned while their images were prepared anew.

    Returns:
        The state after the round, and its commit.

    Raises:
        QuorumError: too few clients have answered a question.
        RunError: the method has asked to train twice, or for nothing at all.
    """
    clock = Clock()
    desk = server.desk
    cohort = dispatching.drawn(server, before.round_index + 1)
    talk = desk.method.round(desk, before, cohort)
    asking = _Round(server, carrier, place, before, commits, check_data, clock)
    answers: Answers | None = None
    while True:
        try:
            question = next(talk) if answers is None else talk.send(answers)
        except StopIteration as said:
            after: ServerState = said.value
            break
        clients = question.clients or cohort
        if steps.asked(question.ask).updates:
            answers = asking.train(question, clients)
        else:
            answers = asking.ask(question, clients)
    return asking.concluded(after)


@dataclass
class _Round:
    """What one round has asked so far, and what that cost."""

    server: Server
    carrier: Carrier
    place: Place
    before: ServerState
    commits: Sequence[Commit]
    check_data: Callable[[], None]
    clock: Clock
    questions: int = 0
    traffic: dict[str, Traffic] = field(default_factory=dict)
    jobs: tuple[ClientJob, ...] = ()
    late: tuple[ClientJob, ...] = ()
    closed: Closed | None = None
    answered: Answered | None = None

    @property
    def round_index(self) -> int:
        return self.before.round_index + 1

    @property
    def holdings(self) -> Mapping[str, Holding]:
        return self.commits[-1].holdings

    def train(self, question: Question, clients: tuple[str, ...]) -> Answers:
        """Ask to train: dispatch, train, aggregate."""
        server, step = self.server, self.carrier.server_step
        if self.closed is not None:
            raise RunError(f"{server.desk.method.name} asks to train twice in a round; ask once")
        before, last = question.before or self.before, self.commits[-1]
        with self.clock("dispatch"):
            jobs = step(
                "dispatch", dispatching.dispatch, server, before, last.state, self.holdings, clients
            )
            self.late = still_at_work(server, self.round_index, self.holdings)
        found: Gathered | Closed | None = None
        with self.clock("train"):
            closings = server.journal.closings(self.round_index)
            if closings and steps.all_there(server, closings[-1]):
                found = closings[-1]
            elif closings:
                check_not_lost(server.journal, self.round_index)
            if found is None:
                found = gather(server, self.carrier, self.place, jobs, before, self.late)
                self.check_data()
        with self.clock("aggregate"):
            norms = [commit.report.norms for commit in self.commits[1:]]
            self.closed, state = step(
                "aggregate", aggregate, server, before, found, norms, len(closings)
            )
        held = downlink.held(server.desk, server.store, before, jobs)
        self.jobs = jobs
        self._charge(jobs, self.closed)
        return Answers(state=replace(state, held=held))

    def ask(self, question: Question, clients: tuple[str, ...]) -> Answers:
        """Ask for anything else; what comes back is closed in the journal as well."""
        server, self.questions = self.server, self.questions + 1
        before, ask = question.before or self.before, steps.asked(question.ask)
        with self.clock("dispatch"):
            jobs = self.carrier.server_step(
                "dispatch", dispatching.jobs_for, server, before, clients, self.round_index,
                question.ask, self.holdings, None, self.questions,
            )  # fmt: skip
        with self.clock("train"):
            there = server.journal.answers(self.round_index, self.questions)
            if there and steps.all_there(server, there[-1]):
                answered = there[-1]
            else:
                if there:
                    check_not_lost(server.journal, self.round_index)
                answered = self._gathered(question, jobs, before)
                self.check_data()
                server.journal.answer(answered, len(there))
            updates = {
                report.client: steps.answered(server.store, ask, server.desk.plan, report)
                for report in answered.reports
            }
        self.jobs, self.answered = self.jobs if self.closed else jobs, answered
        self._charge(jobs, answered)
        return Answers(updates=updates)

    def _gathered(
        self, question: Question, jobs: tuple[ClientJob, ...], before: ServerState
    ) -> Answered:
        cohort = Cohort(self.server, self.carrier, self.place, jobs, before)
        for _ in cohort.run():
            pass
        closed = cohort.closed()
        return Answered(
            round_index=self.round_index,
            question=self.questions,
            ask=question.ask,
            bases=dispatching.bases(jobs),
            reports=closed.reports,
            failures=closed.failures,
            refused=closed.refused,
        )

    def _charge(self, jobs: tuple[ClientJob, ...], closed: Closed | Answered) -> None:
        by_client = {job.client: job for job in jobs}
        communicates = self.server.desk.method.communicates
        sent = (
            ledger.traffic_of(by_client, closed, self.holdings)
            if communicates
            else {client: Traffic() for client in by_client}
        )
        self.traffic = ledger.together(self.traffic, sent)

    def concluded(self, after: ServerState) -> tuple[ServerState, Commit]:
        """Draft the report, and do what comes after the conversation."""
        desk, closed = self.server.desk, self.closed or self._without_training()
        traffic = self.traffic
        if self.round_index == 1:
            earlier = self.commits[-1].report.traffic
            uplinks = {client: Traffic(uplink=sent.uplink) for client, sent in earlier.items()}
            traffic = ledger.together(traffic, uplinks)
        counted = sum(r.examples for r in closed.reports)
        kept = ledger.kept_parameters(desk.graph, self.before.mask)
        if desk.existing:
            kept = ledger.existing_parameters(desk.wire(self.before.mask).down)
        communicates = desk.method.communicates
        cohort = tuple(job.client for job in self.jobs)
        draft = RoundReport(
            round_index=self.round_index,
            rounds=self.server.config.federation.rounds,
            cohort=cohort,
            failures=tuple(f for f in closed.failures if f.client in cohort),
            metrics={},
            metrics_before_pruning={},
            pruned=False,
            traffic=traffic,
            paper_bytes=sum(desk.method.paper_bytes(desk, kept, job.variant) for job in self.jobs)
            if communicates
            else 0,
            dense_bytes=ledger.dense_bytes(desk, len(closed.reports)) if communicates else 0,
            sparsity=0.0,
            units_kept={},
            train_loss=math.fsum(number(r, "train_loss") * r.examples for r in closed.reports)
            / max(counted, 1),
            seconds=self.clock.seconds,
            client_metrics={
                r.client: {
                    "examples": float(r.examples),
                    "seconds": r.seconds,
                    "train_loss": number(r, "train_loss"),
                    **{name: number(r, name) for name in r.metrics},
                    **_age(closed, r.client),
                }
                for r in closed.reports
            },
            method_metrics=_own(closed) | self._ages(closed),
            norms=closed.norms,
            remarks=closed.remarks,
        )
        past = [commit.report for commit in self.commits[1:]]
        return finish(
            self.server, self.carrier, self.place, self.before, after, draft,
            self._holdings(closed, after), past, self.clock,
        )  # fmt: skip

    def _ages(self, closed: Closed) -> dict[str, float]:
        """Say how old updates were that counted, where they may be."""
        if not self.server.config.federation.staleness:
            return {}
        ages = [_age(closed, report.client).get(AGE, 0.0) for report in closed.reports]
        return {AGE: fmean(ages), "late_updates": float(len(closed.late))}

    def _without_training(self) -> Closed:
        """Take the last question for the round's, where none asks to train."""
        if self.answered is None:
            raise RunError(f"{self.server.desk.method.name} asks nothing in a round; ask once")
        keep = {client: held.memory for client, held in self.holdings.items()}
        return Closed(
            round_index=self.round_index,
            reports=tuple(replace(r, memory=keep.get(r.client)) for r in self.answered.reports),
            failures=self.answered.failures,
        )

    def _holdings(self, closed: Closed, after: ServerState) -> dict[str, Holding]:
        """Say what each client holds after the round."""
        masks = {job.client: job.mask.sha256 for job in (*self.jobs, *self.late) if job.mask}
        new = {
            r.client: Holding(
                mask=masks.get(r.client, ""),
                memory=r.memory,
                base=self.round_index
                if after.held and not r.variant
                else self.holdings.get(r.client, Holding()).base,
            )
            for r in closed.reports
        }
        return {**self.holdings, **new}


def check_not_lost(journal: Journal, round_index: int, cause: FedXError | None = None) -> None:
    """Refuse to go on with a round that another server has committed.

    Raises:
        LostRaceError: one has.
    """
    with suppress(StoreError):  # then the cause says more
        if not isinstance(cause, LostRaceError) and journal.committed(round_index) is not None:
            raise LostRaceError(
                f"round {round_index} was committed by another server of this run; this one stops "
                "and has changed nothing"
            ) from cause


def _age(closed: Closed, client: str) -> dict[str, float]:
    late = closed.late.get(client)
    return {AGE: float(closed.round_index - late.round_index)} if late else {}


def _own(closed: Closed) -> dict[str, float]:
    """Average what clients say besides their loss, by examples."""
    names = dict.fromkeys(name for r in closed.reports for name in r.metrics)
    found: dict[str, float] = {}
    for name in names:
        said = [(r.examples, number(r, name)) for r in closed.reports if name in r.metrics]
        found[name] = math.fsum(n * value for n, value in said) / sum(n for n, _ in said)
    found.pop("train_loss", None)
    return found
