"""A client's round as Prefect sees it: the flow ``fedx-client``, which a site deploys as ``train``.

What comes in is plain and small. Tensors, and the client's report, are in the store. The core is
imported where it is used, since a worker that only cancels a run imports this file, too.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.base import logs

if TYPE_CHECKING:
    from fedx_core.clients.client import Place
    from fedx_core.wire.messages import ClientJob


def name_of(round_index: int, client: str, purpose: str, attempt: int) -> str:
    """Name a client's work: ``r7-client-03``, ``r7-client-03-evaluate``, ``r7-client-03-try2``."""
    words = [f"r{round_index}", client]
    if purpose != "train":
        words.append(purpose)
    if attempt:
        words.append(f"try{attempt + 1}")
    return "-".join(words)


def name_of_group(jobs: "Sequence[ClientJob]") -> str:
    """Name the work of one client, or of several: ``r7-client-00..client-09``."""
    first, last = jobs[0], jobs[-1]
    who = first.client if first is last else f"{first.client}..{last.client}"
    return name_of(first.round_index, who, first.purpose, first.attempt)


def run_name() -> str:
    """Name a client's flow run."""
    job = flow_run.parameters["job"]
    return name_of(job["round_index"], job["client"], job["purpose"], job["attempt"])


@flow(
    name="fedx-client",
    flow_run_name=run_name,
    persist_result=False,
    validate_parameters=False,  # `parse` is stricter and says more
)
def fedx_client(job: dict[str, Any], place: dict[str, str]) -> None:
    """Train, evaluate or count pixels at one client, once.

    Doing a job again finds the report that the first time left, so every retry is safe. Failures
    are raised: Prefect shows them, and the server tries the client again or goes on without it.

    Args:
        job: a :class:`fedx_core.wire.messages.ClientJob` as plain values: protocol, run,
            round_index, client, attempt, seed, purpose, plan, base, mask, schema, memory,
            uplink_key, deadline.
        place: the server's idea of ``store``, ``shards`` and ``memory``. A site has its own:
            FEDX_SHARDS (folder with one folder per client), FEDX_STORE and FEDX_MEMORY (URIs; the
            run's name takes the place of ``{run}`` in them, or is added) go before it.
    """
    from fedx_core.base.frozen_json import parse
    from fedx_core.clients.client import Place, train
    from fedx_core.wire.messages import ClientJob

    asked = parse(ClientJob, job)
    with logs.shown():
        report = train(asked, at_site(parse(Place, place), asked.run, os.environ))
    get_run_logger().info(
        f"round {asked.round_index} of {asked.run}, {asked.purpose} at {asked.client}, attempt "
        f"{asked.attempt + 1}: {report.examples} images, {report.seconds:.1f} s"
    )


def train_plainly(jobs: list[dict[str, Any]], place: dict[str, str]) -> list[dict[str, Any]]:
    """Do clients' jobs on a task runner, one after another: plain values in and out.

    One alone that fails raises its error, for Prefect to show; of several each has an answer.

    Args:
        jobs: as those of :func:`fedx_client`.
        place: likewise.

    Returns:
        For each job a :class:`fedx_core.wire.messages.ClientReport`, or among several also a
        :class:`fedx_core.wire.messages.ClientFailure`, as plain values.
    """
    from fedx_core.base.frozen_json import parse, plain
    from fedx_core.clients.client import Place, train
    from fedx_core.rounds.carrier import attempt
    from fedx_core.wire.messages import ClientJob

    asked, where = [parse(ClientJob, job) for job in jobs], parse(Place, place)
    do = train if len(asked) == 1 else attempt
    with logs.shown():
        return [plain(do(job, where)) for job in asked]


def at_site(place: "Place", run: str, environment: Mapping[str, str]) -> "Place":
    """Put a site's own places before those that the server names."""
    from flows.runs.run_folder import part_of

    own: dict[str, str] = {}
    if shards := environment.get("FEDX_SHARDS"):
        own["shards"] = shards
    for name in ("store", "memory"):
        if base := environment.get(f"FEDX_{name.upper()}"):
            own[name] = part_of(base, run)
    return replace(place, **own)
