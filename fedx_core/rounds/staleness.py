"""Updates that come after their round has closed, and count in a later one.

A round closes at the first K updates that count, and who is still at work stays at work. What comes
later is the change that a client made to the model that it began from, and it counts against the
model as it is by then, with a weight that falls with its age.

Source: Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022,
https://arxiv.org/abs/2106.06639; algorithm 1, and the scaling by staleness of section 5.
Differs from the paper: weights are also by images and are divided by their sum, as in every other
round (the paper divides by K alone); a client starts on the newest model when the next round does
and not as soon as it is done; and an update older than ``federation.staleness`` rounds is let go.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedx_core.base.errors import ConfigError
from fedx_core.clients.plan import MethodDesk
from fedx_core.exchanges.base import Exchange
from fedx_core.methods.base import Method
from fedx_core.pruners.base import Pruner
from fedx_core.pruning import masks
from fedx_core.record.records import Closed, Late
from fedx_core.wire.messages import ClientFailure, ClientReport, ServerState, Update


def discount(rounds: int) -> float:
    """Return what is left of an update's weight after some rounds: 1 / sqrt(1 + rounds)."""
    return 1 / math.sqrt(1 + rounds)


def awaited(closed: Closed | None) -> dict[str, ClientFailure]:
    """Say by client who was still at work when a round closed and may count in the next one."""
    return {f.client: f for f in (closed.failures if closed else ()) if f.since}


def late(
    round_index: int, reports: Sequence[ClientReport], since: Mapping[str, int]
) -> dict[str, Late]:
    """Name the late updates among those that count in a round.

    Args:
        round_index: of that round.
        reports: of updates that count.
        since: by client whose job is of an earlier round: that round.
    """
    return {
        report.client: Late(
            round_index=since[report.client], discount=discount(round_index - since[report.client])
        )
        for report in reports
        if report.client in since
    }


def brought_up(desk: MethodDesk, then: ServerState, now: ServerState, update: Update) -> Update:
    """Make the same change to a newer model.

    Values that were pruned meanwhile have no change. BatchNorm's statistics are measured and no
    steps, so they stay as they are: with a change on top, a variance could fall below zero.

    Args:
        desk: of the server.
        then: state that the client began from.
        now: state that the round began with in which the update counts.
        update: a whole model, as it was sent.
    """
    began = desk.method.downlink(then, desk)
    alive = desk.method.support(desk, now.mask, "slices") if now.mask else {}
    payload = {}
    for entry, value in update.payload.items():
        name = entry.partition("/")[2]
        if name in desk.graph.parameters:
            payload[entry] = now.model[name] + (value - began[entry])
        else:
            payload[entry] = value
    kept = {f"model/{name}": where for name, where in alive.items()}
    rounds = now.round_index - then.round_index
    return replace(update, payload=masks.apply(payload, kept), discount=discount(rounds))


def check(desk: MethodDesk) -> None:
    """Refuse methods and codecs with which an old change can't count.

    Raises:
        ConfigError: says what to change.
    """
    if reason := _hindrance(desk):
        raise ConfigError(
            f"federation.staleness lets a change to an older model count, and {reason}; set it to "
            "0, or choose another"
        )


def _hindrance(desk: MethodDesk) -> str:
    method, kind = desk.method, type(desk.method)
    parts = method.parts
    if method.personal or not method.communicates or method.own_exchange:
        return f"{method.name} exchanges no whole model"
    if method.sees_each:
        return f"{method.name} compares the updates of a round with each other"
    if kind.round is not Method.round:
        return f"{method.name} asks more of its clients than to train"
    if (kind.contribution, kind.settle) != (Method.contribution, Method.settle):
        return f"{method.name} has weights of its own"
    if type(parts.exchange).contribution is not Exchange.contribution:
        return f"clients of {method.name} send a part of the model (method.exchange)"
    if type(parts.pruner).group is not Pruner.group:
        return f"{method.name} has masks for single clients (method.pruner)"
    if parts.local.remembers:
        return f"clients of {method.name} follow what they are sent (method.local)"
    if desk.down.lossy:
        return "the downlink's codec has clients follow it from round to round (codec.down)"
    return ""
