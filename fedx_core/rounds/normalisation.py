"""Federated normalisation: each client is asked for counts and sums of its pixels."""

import numpy as np

from fedx_core.asks.statistics import moments_of
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import (
    FedXError,
    ObjectMissingError,
    QuorumError,
    StoreError,
)
from fedx_core.base.frozen_json import canonical
from fedx_core.clients.plan import (
    Plan,
    plan_of,
    unmeasured,
)
from fedx_core.images import moments as sums
from fedx_core.images.moments import Moments
from fedx_core.record.journal import Journal
from fedx_core.rounds import audit, quorum, steps
from fedx_core.rounds.asking import Asking
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.setting import Data, Setting
from fedx_core.store import Store, put_by_hash
from fedx_core.wire import acceptance
from fedx_core.wire.messages import (
    PROTOCOL,
    ClientFailure,
    ClientJob,
    ClientReport,
    Traffic,
)


def federated_moments(
    settings: ExperimentConfig,
    setting: Setting,
    carrier: Carrier,
    journal: Journal,
    data: Data,
) -> tuple[Moments, dict[str, Traffic], tuple[ClientFailure, ...]]:
    """Ask every client for counts and sums of its pixels, and add them up in their order.

    Raises:
        QuorumError: too few have sent any that can be.
    """
    unmeasured_plan = plan_of(settings, data.description, unmeasured(data.description))
    plan = put_by_hash(journal.store, "plans", canonical(unmeasured_plan))
    jobs = [
        ClientJob(
            protocol=PROTOCOL,
            run=setting.run,
            round_index=0,
            client=client,
            attempt=0,
            seed=0,
            purpose="statistics",
            plan=plan,
            base=None,
            mask=None,
            schema="",
            memory=None,
            uplink_key=f"statistics/{client}.0",
            deadline=settings.federation.round_timeout,
        )
        for client in data.clients
    ]
    asking = Asking(carrier, setting.place, jobs)
    outcomes = {job.client: outcome for job, outcome in asking.outcomes()}
    parts: list[Moments] = []
    traffic: dict[str, Traffic] = {}
    failures: list[ClientFailure] = []
    for job in jobs:
        outcome = outcomes[job.client]
        found: Moments | ClientFailure
        if isinstance(outcome, ClientFailure):
            found = outcome
        else:
            found = _accepted(journal.store, job, unmeasured_plan, outcome, data)
            sent = outcome.uplink.size if outcome.uplink else 0
            is_sound = isinstance(found, Moments)
            traffic[job.client] = Traffic(uplink=sent) if is_sound else Traffic(retry=sent)
        if isinstance(found, Moments):
            parts.append(found)
        else:
            failures.append(found)
            audit.uncounted(setting.audit, job, found)
    refused = sum(failure.refused for failure in failures)
    needed = quorum.needed(settings.federation.min_reports, len(jobs), refused)
    if not parts or len(parts) < needed:
        raise QuorumError(
            f"{len(parts)} of {len(jobs)} clients sent statistics, {needed} needed "
            f"(federation.min_reports); mend it and `fedx resume {setting.run}`, or set "
            "training.normalisation to reference. Lost: "
            + "; ".join(f"{f.client}: {f.reason}" for f in failures),
            {failure.client: failure.reason for failure in failures},
        )
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total, traffic, tuple(failures)


def _accepted(
    store: Store, job: ClientJob, plan: Plan, report: ClientReport, data: Data
) -> Moments | ClientFailure:
    """Believe a client's statistics only if some images that it may have can have them."""
    about, pixels = data.description, data.test.images.dtype
    try:
        acceptance.check(report, job, data.clients[job.client], {})
        found = moments_of(steps.answered(store, steps.asked(job.purpose), plan, report).payload)
        largest = float(np.iinfo(pixels).max) / about.scale
        sums.check(found, report.examples, about.image_size, largest, job.client)
        return found
    except FedXError as error:
        if isinstance(error, StoreError) and not isinstance(error, ObjectMissingError):
            raise  # that the server can't reach its store is no fault of the client's
        return steps.refusal(job, report, error)
