"""Two ledgers, never mixed: bytes on the wire, and the convention of the paper's Table I."""

import math
from collections.abc import Mapping
from dataclasses import fields

from fedx_core.desk.desk import Desk
from fedx_core.methods import fedavg
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import UnitGraph
from fedx_core.record.records import Answered, Closed, Holding
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientJob, Schema, Traffic


def traffic_of(
    jobs: Mapping[str, ClientJob], closed: Closed | Answered, holdings: Mapping[str, Holding]
) -> dict[str, Traffic]:
    """Charge a round's bytes to its clients, by the lengths of what was stored.

    A client is charged the mask when it differs from the one that it held when it last counted, and
    public images until it has counted once. Earlier attempts are charged as retries: each fetched
    what the counting one fetched, and what it sent in vain was sent all the same. Whoever answers
    for an earlier round was charged then for what it fetched.
    """
    attempts = {f.client: f.attempt + 1 for f in closed.failures}
    counted = {r.client: r for r in closed.reports}
    traffic = {}
    for client, job in jobs.items():
        base = job.fetched
        if job.public is not None and client not in holdings:
            base += job.public.size
        held = holdings[client].mask if client in holdings else ""
        mask = job.mask.size if job.mask and job.mask.sha256 != held else 0
        if client in counted:
            report = counted[client]
            if report.refetched and job.base:
                base += job.base.size
            traffic[client] = Traffic(
                downlink=base,
                uplink=report.uplink.size if report.uplink else 0,
                mask=mask,
                retry=report.attempt * (base + mask) + closed.refused.get(client, 0),
            )
        else:
            fetched = attempts.get(client, 1) * (base + mask)
            traffic[client] = Traffic(retry=fetched + closed.refused.get(client, 0))
    for client in dict.fromkeys((*counted, *closed.refused)):
        if client not in jobs:
            uplink = counted[client].uplink if client in counted else None
            traffic[client] = Traffic(
                uplink=uplink.size if uplink else 0, retry=closed.refused.get(client, 0)
            )
    return traffic


def together(left: Mapping[str, Traffic], right: Mapping[str, Traffic]) -> dict[str, Traffic]:
    """Add up what clients have exchanged on two occasions."""
    none = Traffic()
    return {
        client: Traffic(
            **{
                field.name: getattr(left.get(client, none), field.name)
                + getattr(right.get(client, none), field.name)
                for field in fields(Traffic)
            }
        )
        for client in dict.fromkeys((*left, *right))
    }


def dense_bytes(desk: Desk, transfers: int) -> int:
    """Say what transfers cost FedAvg that sends every parameter in four bytes, headers included.

    BatchNorm's statistics travel if they would with the same settings of training.

    Args:
        desk: of the model.
        transfers: in one direction.
    """
    schema = fedavg.Method().schema(desk, None, None).down
    return transfers * frame.lengths(schema)[0]


def paper_bytes(graph: UnitGraph, mask: Mask | None, transfers: int) -> int:
    """Charge transfers as Table I does: kept rows with one scalar each, and the rest whole.

    Parameters in float32 only: no buffers, masks or headers.

    Args:
        graph: of the model.
        mask: in force in these transfers.
        transfers: uplinks and downlinks together.
    """
    return 4 * transfers * kept_parameters(graph, mask)


def kept_parameters(graph: UnitGraph, mask: Mask | None) -> int:
    """Count the parameters that a transfer holds by the paper's count."""
    total = sum(math.prod(graph.shapes[name]) for name in graph.parameters)
    return total - dead_parameters(graph, mask)


def existing_parameters(schema: Schema) -> int:
    """Count the parameters of a downlink where some weights never exist, as they travel."""
    return sum(schema.kept(e) for e in schema.entries if e.dtype == "torch.float32" and not e.exact)


def dead_parameters(graph: UnitGraph, mask: Mask | None) -> int:
    """Count the parameters that dead units take with them, by the paper's count."""
    if mask is None:
        return 0
    if mask.kind == "parameters":
        return mask.size - mask.kept
    return sum(
        int((~mask.entries[layer.name]).sum()) * graph.paper_scalars(layer)
        for layer in graph.layers
    )


def kept_by_layer(graph: UnitGraph, mask: Mask | None) -> dict[str, tuple[int, int]]:
    """Count what is kept and what there is by layer: units, or parameters of a mask over such."""
    if mask is not None and mask.kind == "parameters":
        return {
            name.removesuffix(".weight"): (int(kept.sum()), kept.numel())
            for name, kept in mask.entries.items()
        }
    kept = mask.entries if mask else {}
    return {
        layer.name: (int(kept[layer.name].sum()) if mask else layer.units, layer.units)
        for layer in graph.layers
    }


def sparsity(graph: UnitGraph, mask: Mask | None) -> float:
    """Share of the prunable parameters that are dead, 0 to 1.

    A mask over parameters names those that are prunable.
    """
    prunable = mask.size if mask and mask.kind == "parameters" else graph.prunable
    return dead_parameters(graph, mask) / max(prunable, 1)
