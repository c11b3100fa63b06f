"""Who is asked in a round, and the jobs that tell them what."""

import dataclasses
from collections.abc import Mapping, Sequence

from fedx_core.base import seeding
from fedx_core.methods.base import Turn
from fedx_core.record import checkpoint
from fedx_core.record.records import Holding, Opened
from fedx_core.rounds import downlink, staleness, steps
from fedx_core.rounds.downlink import Downlink
from fedx_core.rounds.steps import Server
from fedx_core.wire.messages import PROTOCOL, ClientJob, Ref, ServerState


def drawn(server: Server, round_index: int) -> tuple[str, ...]:
    """Draw a round's cohort from those who are not still at work for an earlier one."""
    at_work = (
        staleness.awaited(server.journal.closed(round_index - 1))
        if server.config.federation.staleness
        else {}
    )
    return server.desk.method.cohort(
        [client for client in server.clients if client not in at_work],
        server.config.federation.participation,
        round_index,
        server.config.seed,
    )


def dispatch(
    server: Server,
    server_state: ServerState,
    state_ref: Ref,
    holdings: Mapping[str, Holding],
    cohort: tuple[str, ...],
) -> tuple[ClientJob, ...]:
    """Put state and mask into the store, write the jobs, and open the round.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        server_state: that clients are sent.
        state_ref: where the state after the previous round lies.
        holdings: what each client holds.
        cohort: who is to train.
    """
    round_index = server_state.round_index + 1
    sent: dict[str, Downlink] = {}
    jobs = jobs_for(server, server_state, cohort, round_index, "train", holdings, sent)
    base, *others = bases(jobs)
    server.journal.open(
        Opened(
            round_index=round_index,
            state=state_ref,
            base=base,
            cohort=cohort,
            other_bases=tuple(others),
            change=sent[""].change if "" in sent else None,
        )
    )
    return jobs


def jobs_for(
    server: Server,
    server_state: ServerState,
    clients: Sequence[str],
    round_index: int,
    purpose: str,
    holdings: Mapping[str, Holding],
    sent: dict[str, Downlink] | None = None,
    question: int = 0,
) -> tuple[ClientJob, ...]:
    """Put what clients need into the store, once for each variant, and write one job each.

    Args:
        server: see :class:`fedx_core.rounds.steps.Server`.
        server_state: that is sent.
        clients: whose jobs these are.
        round_index: of the jobs.
        purpose: of the jobs: a file of ``fedx_core/asks``.
        holdings: what each client holds.
        sent: takes what was stored, by variant.
        question: number among the round's questions beside training, from 1; 0 for none of them.
    """
    sent = {} if sent is None else sent
    desk = server.desk
    masks_of: dict[str, Ref | None] = {}
    ask = steps.asked(purpose)
    folder = "uplink" if ask.updates else purpose
    places = {client: place for place, client in enumerate(server.clients)}
    mark = server.journal.mark(round_index)
    place_of = f"{folder}/{mark}" + (f"/{question}" if question else "")
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
        variant = desk.method.variant(turn, desk)
        if variant not in sent:
            drawn = seeding.derive(server.config.seed, round_index, "downlink")
            sent[variant] = downlink.put(
                desk, server.store, mark, server_state, variant, ask, drawn
            )
            own = desk.method.mask_for(desk, server_state, variant)
            masks_of[variant] = checkpoint.put_mask(server.store, own)
        one, mask = sent[variant], masks_of[variant]
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
                base=one.base,
                mask=mask,
                schema=one.digest,
                memory=memory,
                uplink_key=f"{place_of}/{client}.0",
                deadline=server.config.federation.round_timeout,
                grace=server.config.federation.grace if ask.updates else 0.0,
                variant=variant,
                public=desk.plan.public,
                changes=downlink.changes(
                    desk, server.journal, round_index, one, mask, holdings.get(client), variant
                )
                if ask.updates
                else None,
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
