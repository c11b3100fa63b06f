"""State dicts and what can be done with them: pure functions, new dicts out.

A payload is a state dict whose names carry the section they belong to: ``model/conv1.weight``.
"""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedx_core.base.errors import NonFiniteError, SchemaError

StateDict = dict[str, Tensor]
Payload = dict[str, Tensor]


def copy(state: Mapping[str, Tensor]) -> StateDict:
    """Copy names and values; nothing is shared with the argument."""
    return {name: value.detach().clone() for name, value in state.items()}


def load_(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy a state dict's values into a model, in place.

    Does what ``load_state_dict`` does, in a quarter of the time for small models, of which many are
    loaded: all tensors are asked for once instead of module by module.

    Raises:
        SchemaError: names or shapes are not the model's.
    """
    own = model.state_dict()
    if own.keys() != values.keys() or any(v.shape != own[n].shape for n, v in values.items()):
        odd = sorted(own.keys() ^ values.keys()) or [
            name for name, value in values.items() if value.shape != own[name].shape
        ]
        raise SchemaError(f"values do not fit the model: {odd[0]!r} differs ({len(odd)} in all)")
    for name, value in values.items():
        own[name].copy_(value)


def subtract(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> StateDict:
    """Return ``left - right`` entry by entry, in ``left``'s dtypes."""
    require_same_layout(left, right)
    return {name: value - right[name] for name, value in left.items()}


def count(state: Mapping[str, Tensor]) -> int:
    """Count scalar values over all entries."""
    return sum(value.numel() for value in state.values())


def norm(state: Mapping[str, Tensor]) -> float:
    """Euclidean norm over the floating entries, accumulated in float64."""
    squares = (
        float(value.double().square().sum())
        for value in state.values()
        if value.is_floating_point()
    )
    return math.sqrt(math.fsum(squares))


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Tell whether two state dicts hold the same bits under the same names in the same order."""
    return list(left) == list(right) and all(
        value.dtype == right[name].dtype
        and value.shape == right[name].shape
        and digest({name: value}) == digest({name: right[name]})
        for name, value in left.items()
    )


def digest(state: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and values, in order, to 64 hexadecimal digits."""
    hasher = hashlib.sha256()
    for name, value in state.items():
        hasher.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        contiguous = value.detach().cpu().contiguous().reshape(-1)
        hasher.update(contiguous.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def section(payload: Mapping[str, Tensor], name: str) -> StateDict:
    """Return one section of a payload, its prefix removed."""
    prefix = f"{name}/"
    return {key[len(prefix) :]: value for key, value in payload.items() if key.startswith(prefix)}


def as_section(state: Mapping[str, Tensor], name: str) -> Payload:
    """Name the entries of a state dict as one section of a payload."""
    return {f"{name}/{key}": value for key, value in state.items()}


def require_same_layout(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    """Check that two state dicts have the same names, shapes and dtypes.

    Raises:
        SchemaError: they differ; the first difference is named.
    """
    if missing := [name for name in left if name not in right]:
        raise SchemaError(f"entry {missing[0]!r} is missing ({len(missing)} in all)")
    if extra := [name for name in right if name not in left]:
        raise SchemaError(f"entry {extra[0]!r} is not expected ({len(extra)} in all)")
    for name, value in left.items():
        other = right[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            raise SchemaError(
                f"entry {name!r} is {other.dtype} {tuple(other.shape)}, "
                f"wanted {value.dtype} {tuple(value.shape)}"
            )


def require_finite(state: Mapping[str, Tensor], owner: str) -> None:
    """Check that no floating entry holds NaN or infinity.

    Raises:
        NonFiniteError: names the owner, the entry and how many values are affected.
    """
    floating = {name: value for name, value in state.items() if value.is_floating_point()}
    # A sum is finite only if all summands are (or it overflowed, which the count then shows); it is
    # several times cheaper than isfinite().all(), and one look at all sums than one at each.
    if floating and not torch.stack([v.sum() for v in floating.values()]).isfinite().all():
        for name, value in floating.items():
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise NonFiniteError(
                    f"{owner}: {bad} of {value.numel()} values of {name!r} are NaN or infinite; "
                    "the update is refused. Lower training.learning_rate or look at that "
                    "client's data"
                )
