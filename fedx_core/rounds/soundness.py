"""What a round's updates lead to, looked at before anybody counts.

An update whose values are all possible may still be one that no training leads to, or may end the
run: clients that are sent a model that is not finite can only fail. So whoever goes too far is left
out or scaled down (:mod:`fedx_core.rounds.outliers`), and then the outcome itself is looked at: it
must be finite, its loss on the reference set a number, and its step no longer than some times what
is usual. Where it is not, the client without which it would be is left out. All of this is decided
before the round is closed, and written down there, so a killed server repeats it to the same bits.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedx_core.base.errors import FedXError, NonFiniteError, OutlierError, RunError, StaleError
from fedx_core.images.examples import Examples
from fedx_core.learning import evaluation
from fedx_core.methods.base import Total
from fedx_core.record.records import Closed
from fedx_core.rounds import audit, outliers, steps
from fedx_core.rounds.arriving import Cohort
from fedx_core.rounds.outliers import STATISTICS, STEP, WEIGHTS, Verdict
from fedx_core.rounds.steps import Server
from fedx_core.wire.messages import ServerState

LONGEST_STEP = 10.0
"""Times the usual change from which a step is looked at."""

LOOKED_AT = 128
"""Images of the reference set on which the loss is taken, at most."""

REMEMBERED = 3
"""Rounds whose updates are not taken once more."""

log = logging.getLogger(__name__)


def close(
    cohort: Cohort, total: Total | None, past: Sequence[Mapping[str, float]]
) -> tuple[Closed, ServerState]:
    """Decide who counts in a round, and how much.

    Args:
        cohort: that has run.
        total: of all its updates' contributions; None for rules that see each update.
        past: norms of the rounds before.

    Returns:
        Who counts, and the state that their updates lead to.

    Raises:
        QuorumError: too few are left.
        RunError: the outcome is not finite, whoever is left out.
    """
    server, before = cohort.server, cohort.before
    everybody, method = cohort.closed(), server.desk.method
    _refuse_repeated(cohort)
    verdict = _judged(cohort, past)
    for client, reason in verdict.refused.items():
        cohort.refuse(client, OutlierError(f"{client}: {reason}"))
    closed = replace(cohort.closed(), scales=verdict.scales)
    if total is None or closed.scales or len(closed.reports) < len(everybody.reports):
        combined = steps.combine(server, before, closed)
    else:
        combined = method.settle(server.desk, before, total)
    if fault := _fault(server, before, combined, verdict, past):
        closed, combined = _without_whoever(cohort, closed, combined, fault, verdict, past)
    counted = {report.client for report in closed.reports}
    remarks = {c: said for c, said in verdict.remarks.items() if c in counted}
    for client, said in remarks.items():
        job = cohort.jobs[0]
        if server.audit is not None:
            audit.note(
                server.audit,
                "odd",
                run=job.run,
                round_index=job.round_index,
                client=client,
                said=said,
            )
        log.warning("round %d: %s: %s", job.round_index, client, said)
    norms = {
        part: outliers.median([m.norms[part] for m in cohort.measured.values() if part in m.norms])
        for part in (WEIGHTS, STATISTICS)
        if any(part in m.norms for m in cohort.measured.values())
    }
    norms[STEP] = outliers.step(before, combined, server.desk)
    return replace(closed, norms=norms, remarks=remarks), combined


def _judged(cohort: Cohort, past: Sequence[Mapping[str, float]]) -> Verdict:
    server = cohort.server
    clip = server.config.federation.clip
    in_turn = [job.client for job in cohort.in_turn if job.client in cohort.measured]
    return outliers.judge(
        {client: cohort.measured[client] for client in in_turn},
        {client: cohort.reports[client].examples for client in in_turn},
        past,
        outliers.sizes(cohort.before, server.desk),
        0.0 if clip == "none" else clip,
    )


def _refuse_repeated(cohort: Cohort) -> None:
    """Refuse what has counted in an earlier round, or comes from another client as well.

    No two trainings end in the same bytes, but for votes and for those that change nothing.
    """
    journal, round_index = cohort.server.journal, cohort.jobs[0].round_index
    known: dict[str, str] = {}
    for earlier in range(max(1, round_index - REMEMBERED), round_index):
        closed = journal.closed(earlier)
        for report in closed.reports if closed else ():
            if report.uplink is not None:
                known[report.uplink.sha256] = f"that of {report.client} in round {earlier}"
    for job in cohort.in_turn:
        measured, report_ = cohort.measured.get(job.client), cohort.reports.get(job.client)
        if report_ is None or report_.uplink is None or measured is None:
            continue
        if not measured.norms.get(WEIGHTS):
            continue
        sha256 = report_.uplink.sha256
        if sha256 in known:
            said = f"the update of {job.client} is {known[sha256]}, byte for byte"
            cohort.refuse(job.client, StaleError(said))
        known[sha256] = f"that of {job.client}"


def _fault(
    server: Server,
    before: ServerState,
    after: ServerState,
    verdict: Verdict,
    past: Sequence[Mapping[str, float]],
) -> FedXError | None:
    """Say what is wrong with what a round leads to; None where it is sound."""
    for name, value in {**after.model, **after.memory}.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return NonFiniteError(f"the round's {name!r} would not be finite")
    if not server.desk.method.personal and not math.isfinite(_loss(server, after)):
        return NonFiniteError("the round's loss on the reference set would be no number")
    steps = [norms[STEP] for norms in past[-outliers.MEMORY :] if norms.get(STEP)]
    usual = outliers.median([*steps, verdict.usual.get(WEIGHTS, math.inf)])
    step = outliers.step(before, after, server.desk)
    if step > LONGEST_STEP * usual and any(r > outliers.SUSPECT for r in verdict.ratios.values()):
        return OutlierError(f"the round's step would be {step / usual:.3g} times what is usual")
    return None


def _loss(server: Server, after: ServerState) -> float:
    part = server.reference
    chosen = np.linspace(0, len(part) - 1, min(len(part), LOOKED_AT)).astype(int)
    few = Examples(
        images=np.asarray(part.images[chosen]),
        labels=np.asarray(part.labels[chosen]),
        groups=np.asarray(part.groups[chosen]),
    )
    # Statistics that did not travel are not measured yet.
    logits = steps.evaluate(server, steps.recalibrated(server, after), few)
    return evaluation.loss(logits, few.labels, server.description.label_kind)


def _without_whoever(
    cohort: Cohort,
    closed: Closed,
    combined: ServerState,
    fault: FedXError,
    verdict: Verdict,
    past: Sequence[Mapping[str, float]],
) -> tuple[Closed, ServerState]:
    """Leave out the client without which the outcome is sound; if it takes several, the worst.

    A fault that stays, whoever is left out, is the training's own. Then nobody is to blame, and
    everybody counts, unless the outcome is not even finite.
    """
    server, before = cohort.server, cohort.before
    left, gone = closed, list[str]()
    while True:
        worst_first = sorted(
            (report.client for report in left.reports),
            key=lambda client: -verdict.ratios.get(client, 0.0),
        )
        if isinstance(fault, OutlierError):
            bar = outliers.SUSPECT
            worst_first = [c for c in worst_first if verdict.ratios.get(c, 0.0) > bar]
        if not worst_first or len(left.reports) == 1:
            break
        for client in worst_first:
            trial = _without(left, [client])
            outcome = steps.combine(server, before, trial)
            if _fault(server, before, outcome, verdict, past) is None:
                for guilty in (*gone, client):
                    kind = type(fault)
                    cohort.refuse(guilty, kind(f"{fault}, and is not without {guilty}"))
                cohort.closed()  # raises where too few are left
                return _fixed(cohort, closed), outcome
        gone.append(worst_first[0])
        left = _without(left, worst_first[:1])
    if all(v.isfinite().all() for v in {**combined.model, **combined.memory}.values()):
        log.warning("round %d: %s, whoever is left out", closed.round_index, fault)
        return closed, combined
    raise RunError(
        f"round {closed.round_index}: {fault}, whoever is left out; everything up to round "
        f"{closed.round_index - 1} is kept. Lower training.learning_rate in a new run, or "
        f"`fedx rollback {server.run} --to ROUND`"
    )


def _fixed(cohort: Cohort, closed: Closed) -> Closed:
    found = cohort.closed()
    counted = {report.client for report in found.reports}
    return replace(found, scales={c: s for c, s in closed.scales.items() if c in counted})


def _without(closed: Closed, clients: Iterable[str]) -> Closed:
    gone = set(clients)
    return replace(closed, reports=tuple(r for r in closed.reports if r.client not in gone))
