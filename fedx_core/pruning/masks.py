"""Which units or parameters stay: bool tensors, True = kept.

Selection follows FedX eq. 6-7 with the count that the paper's own cost table proves: exactly
``floor(q * C)`` units of a layer go, lowest score first, ties by index. (``torch.quantile`` with
``>=`` would remove ``ceil(q * (C - 1))``, and none at all among equal scores.)
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedx_core.base.errors import MaskError

Scores = dict[str, Tensor]
"""One float score per unit, by layer name."""

Scope = Literal["layer", "global"]


@dataclass(frozen=True)
class Mask:
    """A bool tensor per layer (``units``) or per parameter (``parameters``); True = kept."""

    kind: Literal["units", "parameters"]
    entries: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, kept in self.entries.items():
            if kept.dtype != torch.bool:
                raise MaskError(f"mask entry {name!r} is {kept.dtype}, wanted torch.bool")

    @property
    def kept(self) -> int:
        """How many units or parameters stay."""
        return sum(int(kept.sum()) for kept in self.entries.values())

    @property
    def size(self) -> int:
        """How many units or parameters the mask speaks of."""
        return sum(kept.numel() for kept in self.entries.values())

    def digest(self) -> str:
        """Hash names and packed bits to 64 hexadecimal digits."""
        hasher = hashlib.sha256(self.kind.encode())
        for name, kept in self.entries.items():
            hasher.update(f"{name}:{kept.numel()};".encode())
            hasher.update(pack(kept))
        return hasher.hexdigest()


def keep_highest(
    scores: Mapping[str, Tensor],
    pruning_rate: float,
    *,
    scope: Scope = "layer",
    min_keep: int = 0,
    alive: Mask | None = None,
) -> Mask:
    """Keep the units with the highest scores.

    Args:
        scores: one score per unit by layer name, float (units,).
        pruning_rate: share of units to be dead afterwards, in [0, 1).
        scope: ``layer`` removes ``floor(rate * C)`` of each layer's ``C`` units; ``global``
            removes ``floor(rate * sum C)`` over all layers at one threshold.
        min_keep: units that stay in each layer whatever their scores.
        alive: units still alive; the others stay dead and count as removed, so masks are nested.

    Raises:
        MaskError: the rate is outside [0, 1), a score is NaN, or ``alive`` does not fit.
    """
    if not 0 <= pruning_rate < 1:
        raise MaskError(
            f"pruning_rate must lie in [0, 1), got {pruning_rate}; it is a share, not a percentage"
        )
    ranked: Scores = {}
    for name, score in scores.items():
        if torch.isnan(score).any():
            raise MaskError(
                f"layer {name!r} has NaN scores; the model has probably diverged "
                "(lower training.learning_rate)"
            )
        value = score.detach().double().cpu().clone()
        if alive is not None:
            if name not in alive.entries or alive.entries[name].shape != value.shape:
                raise MaskError(f"the mask of alive units does not fit layer {name!r}")
            value[~alive.entries[name]] = -math.inf
        protected = torch.argsort(value, descending=True, stable=True)[:min_keep]
        value[protected] = math.inf
        ranked[name] = value
    if scope == "layer":
        return Mask("units", {name: _keep(v, pruning_rate) for name, v in ranked.items()})
    kept = _keep(torch.cat(list(ranked.values())), pruning_rate)
    parts = torch.split(kept, [len(value) for value in ranked.values()])
    return Mask("units", {name: part.clone() for name, part in zip(ranked, parts, strict=True)})


def _keep(value: Tensor, pruning_rate: float) -> Tensor:
    """Keep all but the lowest ``floor(rate * n)``; -inf is dead already, +inf is protected."""
    # 1e-9 keeps 0.3 * 10 from falling to 2.
    pruned = math.floor(pruning_rate * len(value) + 1e-9)
    pruned = max(pruned, int(torch.isneginf(value).sum()))
    pruned = min(pruned, int((~torch.isposinf(value)).sum()))
    kept = torch.ones(len(value), dtype=torch.bool)
    kept[torch.argsort(value, stable=True)[:pruned]] = False
    return kept


def couple(scores: Mapping[str, Tensor], groups: Iterable[Sequence[str]]) -> Scores:
    """Sum the scores of layers whose units share channels.

    Args:
        scores: one score per unit by layer name, float (units,).
        groups: names of layers with as many units each; a layer is in one group at most.

    Returns:
        Float64 scores; a group's stand under the name of its first layer.
    """
    coupled: Scores = {name: score.double() for name, score in scores.items()}
    for first, *others in groups:
        for name in others:
            coupled[first] = coupled[first] + coupled.pop(name)
    return coupled


def uncouple(mask: Mask, groups: Iterable[Sequence[str]], order: Iterable[str]) -> Mask:
    """Give every layer of a group the mask of its first.

    Args:
        mask: made of what :func:`couple` returned.
        groups: the same.
        order: names of all layers.
    """
    first = {name: group[0] for group in groups for name in group}
    return Mask(mask.kind, {name: mask.entries[first.get(name, name)].clone() for name in order})


def apply(state: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zero what is not kept; entries that ``support`` does not name are passed on as they are.

    Args:
        state: any entries.
        support: bool tensors that broadcast to the entries' shapes, True = kept.
    """
    return {
        name: torch.where(support[name], value, value.new_zeros(())) if name in support else value
        for name, value in state.items()
    }


def kept_count(support: Tensor, shape: tuple[int, ...]) -> int:
    """Count the values that a (broadcastable) support keeps of an entry of ``shape``."""
    return int(support.sum()) * (math.prod(shape) // support.numel())


def jaccard(left: Mask, right: Mask) -> float:
    """Overlap of two masks' kept sets, 0 (disjoint) to 1 (equal)."""
    both = sum(int((left.entries[n] & right.entries[n]).sum()) for n in left.entries)
    either = sum(int((left.entries[n] | right.entries[n]).sum()) for n in left.entries)
    return both / either if either else 1.0


def pack(kept: Tensor) -> bytes:
    """Pack bools to bits, first value in the highest bit of the first byte."""
    return np.packbits(kept.detach().cpu().reshape(-1).numpy()).tobytes()


def unpack(payload: bytes, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`pack`.

    Raises:
        MaskError: the length does not fit the shape, or a padding bit is set.
    """
    size = math.prod(shape)
    if len(payload) != (size + 7) // 8:
        raise MaskError(f"{len(payload)} bytes of mask, wanted {(size + 7) // 8} for {size} bits")
    bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    if bits[size:].any():
        raise MaskError("a padding bit of the mask is set; the mask is corrupt")
    return torch.from_numpy(bits[:size].astype(bool)).reshape(shape)
