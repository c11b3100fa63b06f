"""How a round ends, once its updates are combined: explain, prune, evaluate, commit."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fedx_core.asks import evaluate
from fedx_core.base.errors import ConfigError, ObjectMissingError
from fedx_core.base.state import StateDict
from fedx_core.clients.client import Place
from fedx_core.images.examples import Description
from fedx_core.learning import evaluation, pixel_scores
from fedx_core.record import checkpoint, ledger
from fedx_core.record.records import Commit, Holding
from fedx_core.rounds import selection, steps
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.cohort import score_at_clients
from fedx_core.rounds.steps import Server
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport, ServerState, Traffic


def finish(
    server: Server,
    carrier: Carrier,
    place: Place,
    before: ServerState,
    aggregated: ServerState,
    draft: RoundReport,
    holdings: Mapping[str, Holding],
    past: Sequence[RoundReport],
    clock: "Clock",
) -> tuple[ServerState, Commit]:
    """Do what comes after aggregation: relevance, prune, evaluate, commit.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        carrier: who carries the work.
        place: where clients find things.
        before: state that the round's clients were sent.
        aggregated: state that the updates led to.
        draft: what is known of the round by now.
        holdings: what each client holds after it.
        past: reports of the rounds before it.
        clock: takes the time of each step.

    Returns:
        The state after the round, and its commit.
    """
    method, description = server.desk.method, server.description
    with clock("relevance"):
        scores = carrier.server_step("relevance", steps.relevance, server, aggregated, past)
    with clock("prune"):
        state, evidence = carrier.server_step("prune", steps.prune, server, aggregated, scores)
    draft = replace(draft, pruned=scores is not None)
    with clock("evaluate"):
        draft = _judged(server, carrier, state, draft, past)
    is_last = state.round_index == draft.rounds or bool(draft.stopped)
    metrics: dict[str, float] = {}
    before_pruning: dict[str, float] = {}
    per_class: dict[str, float] = {}
    per_client: dict[str, dict[str, float]] = {}
    own = dict(draft.method_metrics)
    traffic = dict(draft.traffic)
    passing: tuple[str, ...] = ()
    with clock("evaluate"):
        if not method.personal:
            labels = server.test.labels
            if scores is not None:
                logits = carrier.server_step(
                    "evaluate", steps.evaluate, server, aggregated, server.test
                )
                before_pruning = evaluation.metrics(logits, labels, description.label_kind)
            logits = carrier.server_step("evaluate", steps.evaluate, server, state, server.test)
            metrics = evaluation.metrics(logits, labels, description.label_kind)
            if is_last:
                per_class = _named(
                    description, evaluation.per_class(logits, labels, description.label_kind)
                )
                if description.label_kind == "multi":
                    metrics |= _label_frequency(server)
        if method.personal or is_last:
            scored = score_at_clients(server, carrier, place, state, holdings)
            passing = scored.passing
            per_client = {answer.client: evaluate.scores_of(answer) for answer in scored.answers}
            if method.communicates:
                for client, size in scored.sent.items():
                    traffic[client] = replace(traffic.get(client, Traffic()), evaluation=size)
            if method.personal:
                metrics = evaluate.together(scored.answers)
                counts = evaluate.counted(scored.answers)
                if is_last and counts is not None:
                    per_class = _named(description, pixel_scores.overlaps(counts))
        if method.personal:
            own |= _averaged(server, carrier, place, state, holdings)
    report = replace(
        draft,
        metrics=metrics,
        metrics_before_pruning=before_pruning,
        traffic=traffic,
        sparsity=ledger.sparsity(server.desk.graph, state.mask),
        units_kept=ledger.kept_by_layer(server.desk.graph, state.mask),
        seconds=clock.seconds,
        per_class=per_class,
        per_client=per_client,
        method_metrics=own | method.measured(before, state, server.desk),
    )
    commit = carrier.server_step("commit", steps.commit, server, state, report, holdings, evidence)
    for key in passing:
        server.store.delete(key)
    return state, commit


def _judged(
    server: Server,
    carrier: Carrier,
    state: ServerState,
    draft: RoundReport,
    past: Sequence[RoundReport],
) -> RoundReport:
    """Score the round on the tuning set; say which is best by now, and whether this is the last."""
    choice = server.config.federation.selection
    if choice is None:
        return replace(draft, validation={}, best_round=0, stopped="")
    logits = carrier.server_step("validate", steps.evaluate, server, state, server.tuning)
    found = evaluation.metrics(logits, server.tuning.labels, server.description.label_kind)
    scored = replace(draft, validation=found)
    to_come = server.desk.method.to_come(state)
    stand = selection.standing([*past, scored], choice, more_to_come=to_come)
    return replace(scored, best_round=stand.best_round, stopped=stand.stopped)


def _averaged(
    server: Server,
    carrier: Carrier,
    place: Place,
    state: ServerState,
    holdings: Mapping[str, Holding],
) -> dict[str, float]:
    """Score the mean of what clients keep on the test set, if the method asks for it."""

    def memories() -> Iterator[StateDict]:
        store = open_store(place.memory)
        for client in server.clients:  # a fixed order, so that sums are the same after a resume
            memory = holdings[client].memory if client in holdings else None
            if memory is None:
                continue
            try:
                yield checkpoint.unpack_state(store.get(memory))[0]
            except ObjectMissingError as error:
                raise ConfigError(
                    f"the server can't see what {client} keeps, so it can't average it; that is "
                    "for simulations: set method.average to false"
                ) from error

    mean = server.desk.method.averaged(state, memories())
    if mean is None:
        return {}
    logits = carrier.server_step(
        "evaluate", steps.evaluate, server, replace(state, model=mean), server.test
    )
    found = evaluation.metrics(logits, server.test.labels, server.description.label_kind)
    return {f"averaged_{name}": score for name, score in found.items()}


def _named(description: Description, scores: Sequence[float | None]) -> dict[str, float]:
    """Name the classes of scores by class; those without one are left out."""
    by_class = zip(description.class_names, scores, strict=True)
    return {name: score for name, score in by_class if score is not None}


def _label_frequency(server: Server) -> dict[str, float]:
    known = [server.reference.labels, server.tuning.labels]
    frequencies = sum(part.sum(0) for part in known) / sum(len(part) for part in known)
    return evaluation.label_frequency_scores(frequencies, server.test.labels)


class Clock:
    """Wall seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str) -> "Clock":
        """Name the step whose time is taken next."""
        self._step = step
        return self

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._started
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + spent
