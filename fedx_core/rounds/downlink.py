"""What clients are sent: a model, whole, or what has changed since a base that they hold.

With a lossy codec all clients that were sent a round's model hold the same one, which is near to
the server's: the round's base. The next one is that plus the decoded change. A client that missed
some rounds catches up by their changes, if these are shorter together than the whole. The base is
there for whoever can't follow. Methods that send clients different things (``Method.variant``) send
changes to those only whose variant has no name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedx_core.asks.base import Ask
from fedx_core.base.state import Payload
from fedx_core.clients import exchange
from fedx_core.clients.plan import MethodDesk
from fedx_core.codec import base as codecs
from fedx_core.record.journal import Journal
from fedx_core.record.records import Holding
from fedx_core.store import Store, put_by_hash
from fedx_core.wire.messages import ClientJob, Ref, ServerState

MOST_CHANGES = 64
"""That a client is named to catch up by."""


@dataclass(frozen=True)
class Downlink:
    """One variant of what a round's clients are sent.

    Args:
        base: the whole payload.
        digest: of its schema, hexadecimal.
        change: what leads to it from the base of the round before; None for nothing.
    """

    base: Ref
    digest: str
    change: Ref | None = None


def put(
    desk: MethodDesk,
    store: Store,
    mark: str,
    before: ServerState,
    variant: str,
    ask: Ask,
    seed: int,
) -> Downlink:
    """Encode what clients of one variant are sent, and store it.

    Args:
        desk: knows method and codecs.
        store: of the run.
        mark: of the round, see ``Journal.mark``.
        before: the state that is sent, and what clients hold.
        variant: see ``Method.variant``.
        ask: of the jobs; who sends no update is sent all of it, and exactly.
        seed: of random rounding.
    """
    lent = desk.at(ask)
    schema = lent.wire(desk.method.mask_for(lent, before, variant), variant).down
    payload = desk.method.downlink(before, lent, variant)
    change = None
    if desk.down.lossy and ask.updates and not variant and before.held:
        data, _ = exchange.encode(desk.down, payload, before.held, schema, {}, seed)
        payload = exchange.decode(desk.down, data, before.held, schema)
        change = put_by_hash(store, f"changes/{mark}", data)
    data, _ = codecs.whole(desk.down).encode(payload, schema, {}, 0)
    # A folder for each round, so that tidying one up takes nothing from the next.
    return Downlink(put_by_hash(store, f"downlink/{mark}", data), schema.digest.hex(), change)


def changes(
    desk: MethodDesk,
    journal: Journal,
    round_index: int,
    sent: Downlink,
    mask: Ref | None,
    holding: Holding | None,
    variant: str,
) -> tuple[Ref, ...] | None:
    """Say by what changes a client gets to this round's base; None where it is to fetch that.

    Args:
        desk: of the run.
        journal: knows the changes of earlier rounds.
        round_index: of this round.
        sent: to the client's variant.
        mask: of this round.
        holding: what the client holds.
        variant: of the client.
    """
    drawn = desk.plan.first_model is not None
    if round_index == 1:
        return () if drawn else None
    if variant or not desk.down.lossy:
        return None
    since = holding.base if holding else 0
    if not since and not drawn:
        return None
    found = [sent.change] if sent.change else []
    for missed in range(round_index - 1, max(since, 1), -1):
        opened = journal.opened(missed)
        held_mask = holding.mask if holding and since else ""
        if opened is None or held_mask != (mask.sha256 if mask else ""):
            return None  # changes under another mask have another schema
        found += [opened.change] if opened.change else []
    if len(found) > MOST_CHANGES or sum(ref.size for ref in found) >= sent.base.size:
        return None
    return tuple(reversed(found))


def held(desk: MethodDesk, store: Store, before: ServerState, jobs: Sequence[ClientJob]) -> Payload:
    """Return the base that clients hold once they have been sent a round's downlinks."""
    base = next((job.base for job in jobs if job.base and not job.variant), None)
    if not desk.down.lossy or base is None:
        return before.held
    return exchange.fetched(store, desk, desk.wire(before.mask).down, base)
