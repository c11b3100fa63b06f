"""States, memories and masks as bytes: safetensors and framed bits, never pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fedx_core.base import state, strict_json, tensor_file
from fedx_core.base.errors import PayloadError, VersionError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.base.state import StateDict
from fedx_core.desk.desk import Desk
from fedx_core.pruning.masks import Mask
from fedx_core.record.records import Evidence
from fedx_core.store import Store, put_by_hash
from fedx_core.wire import frame
from fedx_core.wire.messages import PROTOCOL, Entry, Ref, Schema, ServerState


def pack_state(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    """Encode tensors as safetensors; equal values give equal bytes."""
    from safetensors.torch import save

    # One key only: safetensors does not promise an order for several.
    metadata = {"fedx": canonical(about or {}).decode()}
    return save({name: value.contiguous() for name, value in tensors.items()}, metadata)


def unpack_state(data: frame.Buffer) -> tuple[StateDict, dict[str, Any]]:
    """Undo :func:`pack_state`.

    Raises:
        PayloadError: the bytes are no safetensors file of ours.
    """
    try:
        tensors, metadata = tensor_file.load(data)
        return tensors, about_of(metadata)
    except PayloadError as error:
        raise type(error)(f"checkpoint is corrupt: {error}") from error


def about_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what :func:`pack_state` was told of the tensors.

    Raises:
        PayloadError: it is damaged.
    """
    found = strict_json.loads(metadata.get("fedx", "{}").encode(), tensor_file.LARGEST_HEADER)
    if not isinstance(found, dict):
        raise PayloadError("what a file says of its tensors is no JSON object")
    return found


def pack_server_state(server_state: ServerState) -> bytes:
    """Encode a server's state as one safetensors file, a section for each part."""
    mask = server_state.mask
    tensors = {
        **state.as_section(server_state.model, "model"),
        **state.as_section(dict(mask.entries) if mask else {}, "mask"),
        **state.as_section(server_state.memory, "memory"),
        **state.as_section(server_state.held, "held"),
    }
    order = {part: list(state.section(tensors, part)) for part in ("model", "mask", "memory")}
    if server_state.held:
        order["held"] = list(server_state.held)
    about = {
        "protocol": PROTOCOL,
        "round_index": server_state.round_index,
        "mask_kind": mask.kind if mask else "",
        "order": order,
    }
    return pack_state(tensors, about)


def unpack_server_state(data: frame.Buffer) -> ServerState:
    """Undo :func:`pack_server_state`.

    Raises:
        PayloadError: the bytes are not such a state.
    """
    tensors, said = unpack_state(data)
    if said.get("protocol") != PROTOCOL:
        raise VersionError(
            f"checkpoint of protocol {said.get('protocol')!r}, this is {PROTOCOL}; resume with the "
            "version that wrote it"
        )
    try:
        found = parse(_About, said)
        order = [f"{part}/{name}" for part, names in found.order.items() for name in names]
        if len(order) != len(tensors) or set(order) != set(tensors):
            raise PayloadError("its tensors are not those that it lists")
        parts = {
            part: {name: tensors[f"{part}/{name}"] for name in found.order.get(part, ())}
            for part in ("model", "mask", "memory", "held")
        }
        return ServerState(
            round_index=found.round_index,
            model=parts["model"],
            mask=Mask(found.mask_kind, parts["mask"]) if found.mask_kind else None,
            memory=parts["memory"],
            held=parts["held"],
        )
    except PayloadError as error:
        raise type(error)(f"checkpoint is corrupt: {error}") from error


@dataclass(frozen=True)
class _About:
    """What a packed state says of itself."""

    protocol: int
    round_index: int
    mask_kind: Literal["", "units", "parameters"]
    order: Mapping[str, tuple[str, ...]]


def put_evidence(
    store: Store, before: ServerState, scores: Mapping[str, Tensor], mask: Mask
) -> Evidence:
    """Keep what a pruning event saw and decided, each under its hash.

    Args:
        store: of the run.
        before: the state that was pruned.
        scores: float (units,) by layer; kept as float32.
        mask: what is kept from then on.
    """
    about = {
        "protocol": PROTOCOL,
        "round_index": before.round_index,
        "mask_kind": mask.kind,
        "order": {"scores": list(scores), "kept": list(mask.entries)},
    }
    tensors = {
        **state.as_section({n: s.detach().float().cpu() for n, s in scores.items()}, "scores"),
        **state.as_section({n: k.to(torch.uint8) for n, k in mask.entries.items()}, "kept"),
    }
    # A prefix of their own, which retention never touches.
    return Evidence(
        before=put_by_hash(store, "pruning", pack_server_state(before)),
        scores=put_by_hash(store, "pruning", pack_state(tensors, about)),
    )


def mask_schema(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> Schema:
    """Say what a mask object holds: one bit per unit or parameter."""
    return Schema(tuple(Entry(f"{kind}/{n}", "torch.bool", s) for n, s in shapes.items()))


def put_mask(store: Store, mask: Mask | None) -> Ref | None:
    """Keep a mask under its hash; None stands for no mask."""
    if mask is None:
        return None
    schema = mask_schema(mask.kind, {n: tuple(k.shape) for n, k in mask.entries.items()})
    payload = state.as_section(dict(mask.entries), mask.kind)
    return put_by_hash(store, f"masks-{mask.kind}", frame.encode(payload, schema, "mask"))


def fetch_mask(
    store: Store, ref: Ref | None, desk: Desk, masked: Sequence[str] = ()
) -> Mask | None:
    """Undo :func:`put_mask` for a known model.

    Args:
        store: shared with the server.
        ref: of the mask.
        desk: of the model.
        masked: entries that the method's masks over parameters name.

    Raises:
        PayloadError: the bytes are corrupt or of another model's mask.
    """
    if ref is None:
        return None
    kind = "units" if ref.key.startswith("masks-units/") else "parameters"
    shapes: dict[str, tuple[int, ...]] = (
        {layer.name: (layer.units,) for layer in desk.graph.layers}
        if kind == "units"
        else {name: desk.entries[name][1] for name in masked}
    )
    schema = mask_schema(kind, shapes)
    frame.require_length(ref, frame.lengths(schema))
    payload = frame.decode(store.get(ref), schema, "mask")
    entries = state.section(payload, kind)
    return Mask("units", entries) if kind == "units" else Mask("parameters", entries)
