"""What both sides do with a codec: a lossy one is given changes of what the other side holds.

    server   sends C(w - v)          v: the model that clients hold, both sides' memory
    client   sends C(w_k - v + e_k)  e_k: what its last updates left out, its own memory
    server   takes w + C(...)        so that all methods see models, and keep what v still lacks

So nothing is lost that is left out once: the server's model moves by what was decoded, and what a
downlink leaves out is in the next one's difference.

Source: error feedback at both ends, and catching up by cached changes: F. Sattler et al., Robust
and Communication-Efficient Federated Learning from Non-IID Data, 2019,
https://arxiv.org/abs/1903.02891, algorithm 2 and section V. Changes of what clients hold:
K. Gruntkowska et al., EF21-P and Friends, ICML 2023, https://arxiv.org/abs/2209.15218.
"""

from collections.abc import Sequence

from fedx_core.base import state
from fedx_core.base.errors import ObjectMissingError, SchemaError
from fedx_core.base.state import Payload
from fedx_core.clients.plan import MethodDesk, Plan, first_weights
from fedx_core.codec import base as codecs
from fedx_core.codec.base import Codec, is_compressed
from fedx_core.pruning import masks
from fedx_core.store import Store, reference
from fedx_core.wire import frame
from fedx_core.wire.frame import Buffer
from fedx_core.wire.messages import Ref, Schema


def encode(
    codec: Codec, payload: Payload, base: Payload, schema: Schema, residual: Payload, seed: int
) -> tuple[Buffer, Payload]:
    """Encode a payload; what a lossy codec compresses, as a change.

    Args:
        codec: of this direction.
        payload: in the schema's order.
        base: what the receiver knows, by the same names; entries that it lacks count as zero.
        schema: of the payload.
        residual: see :class:`fedx_core.codec.base.Codec`.
        seed: of random rounding.

    Returns:
        The bytes, and what they leave out.
    """
    if not codec.lossy:
        return codec.encode(payload, schema, {}, seed)
    changed = _compressed(schema, base)
    moved = {n: v - base[n] if n in changed else v for n, v in payload.items()}
    return codec.encode(moved, schema, residual, seed)


def decode(codec: Codec, data: Buffer, base: Payload, schema: Schema) -> Payload:
    """Undo :func:`encode`; ``base`` is what the receiver knows."""
    found = codec.decode(data, schema)
    if not codec.lossy:
        return found
    changed = _compressed(schema, base)
    moved = {n: v + base[n] if n in changed else v for n, v in found.items()}
    support = {
        entry.name: schema.settled(entry, found).support[entry.name]
        for entry in schema.entries
        if entry.name in schema.support or entry.name in schema.flips
    }
    return masks.apply(moved, support)


def _compressed(schema: Schema, base: Payload) -> dict[str, None]:
    # In the schema's order: norms add up in it, and a set's order is another one in each process.
    return dict.fromkeys(e.name for e in schema.entries if is_compressed(e) and e.name in base)


def noise(codec: Codec, data: Buffer, payload: Payload, base: Payload, schema: Schema) -> float:
    """Say how large the error of what is received is, beside the change that was meant."""
    received = decode(codec, data, base, schema)
    changed = _compressed(schema, base)
    errors = {name: received[name] - payload[name] for name in changed}
    changes = {name: payload[name] - base[name] for name in changed}
    return state.norm(errors) / max(state.norm(changes), 1e-30)


def first(plan: Plan, desk: MethodDesk, variant: str) -> Payload:
    """Draw the first model from the plan's seed, and return its downlink; empty without a seed."""
    if plan.first_model is None:
        return {}
    beginning = desk.method.start(desk.masked(first_weights(plan, plan.first_model)))
    return desk.method.downlink(beginning, desk, variant)


def fetched(store: Store, desk: MethodDesk, schema: Schema, base: Ref) -> Payload:
    """Fetch a downlink that is whole."""
    whole = codecs.whole(desk.down)
    frame.require_length(base, whole.lengths(schema))
    return whole.decode(store.get(base), schema)


def followed(
    store: Store,
    desk: MethodDesk,
    schema: Schema,
    start: Payload,
    changes: Sequence[Ref],
    base: Ref,
) -> Payload | None:
    """Fetch changes of what is held, and add them up.

    Args:
        store: of the references.
        desk: knows the codecs.
        schema: of all these downlinks.
        start: what is held; empty for nothing.
        changes: oldest first.
        base: where they lead, if what is held is what the server takes it for.

    Returns:
        The same payload as :func:`fetched`; None where they lead elsewhere.
    """
    if not start:
        return None
    payload = start
    try:
        for change in changes:
            frame.require_length(change, desk.down.lengths(schema))
            payload = decode(desk.down, store.get(change), payload, schema)
        data, _ = codecs.whole(desk.down).encode(payload, schema, {}, 0)
    except (ObjectMissingError, SchemaError):  # a copy of the run lacks it; held of another model
        return None
    return payload if reference(base.key, data) == base else None
