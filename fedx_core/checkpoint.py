"""States, memories and masks as bytes: safetensors and framed bits, never pickle."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedx_core import state
from fedx_core.codec import base as framing
from fedx_core.errors import PayloadError
from fedx_core.journal import Evidence
from fedx_core.masks import Mask
from fedx_core.messages import PROTOCOL, Entry, Ref, Schema, ServerState, canonical
from fedx_core.methods.base import ModelInfo
from fedx_core.state import StateDict
from fedx_core.store import Store, put_by_hash


def pack_state(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    """Encode tensors as safetensors; equal values give equal bytes."""
    from safetensors.torch import save

    # One key only: safetensors does not promise an order for several.
    metadata = {"fedx": canonical(about or {}).decode()}
    return save({name: value.contiguous() for name, value in tensors.items()}, metadata)


def unpack_state(data: framing.Buffer) -> tuple[StateDict, dict[str, Any]]:
    """Undo :func:`pack_state`.

    Raises:
        PayloadError: the bytes are no safetensors file of ours.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    raw = bytes(data)
    try:
        tensors = load(raw)
        length = int.from_bytes(raw[:8], "little")
        metadata = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
        return tensors, json.loads(metadata.get("fedx", "{}"))
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise PayloadError(f"checkpoint is corrupt: {error}") from error


def pack_server_state(server_state: ServerState) -> bytes:
    """Encode a server's state as one safetensors file: ``model/``, ``mask/``, ``memory/``."""
    mask = server_state.mask
    tensors = {
        **state.as_section(server_state.model, "model"),
        **state.as_section(dict(mask.entries) if mask else {}, "mask"),
        **state.as_section(server_state.memory, "memory"),
    }
    order = {part: list(state.section(tensors, part)) for part in ("model", "mask", "memory")}
    about = {
        "protocol": PROTOCOL,
        "round_index": server_state.round_index,
        "mask_kind": mask.kind if mask else "",
        "order": order,
    }
    return pack_state(tensors, about)


def unpack_server_state(data: framing.Buffer) -> ServerState:
    """Undo :func:`pack_server_state`.

    Raises:
        PayloadError: the bytes are not such a state.
    """
    tensors, about = unpack_state(data)
    try:
        parts = {
            part: {name: tensors[f"{part}/{name}"] for name in names}
            for part, names in about["order"].items()
        }
        kind = about["mask_kind"]
        return ServerState(
            round_index=about["round_index"],
            model=parts["model"],
            mask=Mask(kind, parts["mask"]) if kind else None,
            memory=parts["memory"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PayloadError(f"checkpoint is corrupt: {error!r}") from error


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
    """Say what a mask object holds: one bit a unit or parameter."""
    return Schema(tuple(Entry(f"{kind}/{n}", "torch.bool", s) for n, s in shapes.items()))


def put_mask(store: Store, mask: Mask | None) -> Ref | None:
    """Keep a mask under its hash; None stands for no mask."""
    if mask is None:
        return None
    schema = mask_schema(mask.kind, {n: tuple(k.shape) for n, k in mask.entries.items()})
    payload = state.as_section(dict(mask.entries), mask.kind)
    return put_by_hash(store, f"masks-{mask.kind}", framing.encode(payload, schema, "mask"))


def fetch_mask(
    store: Store, ref: Ref | None, info: ModelInfo, masked: Sequence[str] = ()
) -> Mask | None:
    """Undo :func:`put_mask` for a known model.

    Args:
        store: shared with the server.
        ref: of the mask.
        info: of the model.
        masked: entries that the method's masks over parameters name.

    Raises:
        PayloadError: the bytes are corrupt or of another model's mask.
    """
    if ref is None:
        return None
    kind = "units" if ref.key.startswith("masks-units/") else "parameters"
    shapes: dict[str, tuple[int, ...]] = (
        {layer.name: (layer.units,) for layer in info.graph.layers}
        if kind == "units"
        else {name: info.entries[name][1] for name in masked}
    )
    payload = framing.decode(store.get(ref), mask_schema(kind, shapes), "mask")
    entries = state.section(payload, kind)
    return Mask("units", entries) if kind == "units" else Mask("parameters", entries)
