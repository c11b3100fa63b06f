"""What a run's rounds will send, before it runs: payloads are encoded, and nobody trains."""

import math
from dataclasses import dataclass

import torch

from fedx_core.base import seeding
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.state import Payload
from fedx_core.codec import base as codecs
from fedx_core.codec.base import Codec
from fedx_core.desk.local import Turn
from fedx_core.rounds import start
from fedx_core.rounds.start import Data
from fedx_core.wire.messages import Schema

_CHANGE = 1e-3
"""Standard deviation of the pretended changes; no codec's length follows the scale."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What rounds will send, in bytes.

    What pruning takes away later is not known yet, so methods that prune send less than this.

    Args:
        clients: in each round's cohort.
        first_down: to one client in the first round.
        down: to one client in each later round.
        up: from one client in each round.
    """

    clients: int
    first_down: int
    down: int
    up: int


def forecast(settings: ExperimentConfig, data: Data) -> Forecast:
    """Say what rounds will send.

    Many payloads have one length. What a codec makes of others is found by encoding a change of
    normal values, as likely as not a little longer than a real one.

    Args:
        settings: of the run.
        data: that it would run on.

    Raises:
        FedXError: as :func:`fedx_core.rounds.start.check`.
    """
    desk = start.check(settings, data)
    method, names = desk.method, tuple(data.clients)
    cohort = method.cohort(names, settings.federation.participation, 1, settings.seed)
    if not method.communicates:
        return Forecast(clients=len(cohort), first_down=0, down=0, up=0)
    first = method.start(desk.masked(desk.model.state_dict()))
    turn = Turn(client=cohort[0], place=0, round_index=1, purpose="train", returning=False)
    wire = desk.wire(first.mask, method.variant(turn, desk))
    mask = math.ceil(first.mask.size / 8) if first.mask else 0
    drawn = desk.plan.first_model is not None
    whole = codecs.whole(desk.down).lengths(wire.down)[1]
    return Forecast(
        clients=len(cohort),
        first_down=mask + (0 if drawn else whole),
        down=_sent(desk.down, wire.down, settings.seed),
        up=_sent(desk.up, wire.up, settings.seed),
    )


def _sent(codec: Codec, schema: Schema, seed: int) -> int:
    least, most = codec.lengths(schema)
    if least == most:
        return most
    generator = seeding.torch_generator(seeding.derive(seed, "forecast"))
    payload: Payload = {}
    for entry in schema.entries:
        dtype = getattr(torch, entry.dtype.removeprefix("torch."))
        value = torch.zeros(entry.shape, dtype=dtype)
        payload[entry.name] = (
            value.normal_(0, _CHANGE, generator=generator) if dtype.is_floating_point else value
        )
    return len(codec.encode(payload, schema, {}, seed)[0])
