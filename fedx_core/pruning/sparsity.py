"""Unstructured sparsity: how many weights each layer keeps, and which.

Source: U. Evci et al., Rigging the Lottery, ICML 2020, https://arxiv.org/abs/1911.11134, section 3
(Erdős-Rényi-Kernel: a layer's density falls with its number of weights per row and column).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedx_core.base.errors import ConfigError
from fedx_core.pruning.masks import Mask

Shape = tuple[int, ...]


def erdos_renyi_kernel(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, int]:
    """Share a number of weights out to layers: density = epsilon * (sum of sides / weights).

    Layers that would be more than dense are dense, and epsilon is solved for the others, so that
    the whole has the sparsity asked for, but for rounding.

    Args:
        shapes: of weights by name, (out, in) or (out, in, height, width).
        sparsity: of all of them together, in [0, 1).

    Returns:
        Weights kept by name.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    budget = (1 - sparsity) * sum(sizes.values())
    dense: set[str] = set()
    while sparse := [name for name in shapes if name not in dense]:
        rest = budget - sum(sizes[name] for name in dense)
        epsilon = rest / math.fsum(raw[name] * sizes[name] for name in sparse)
        full = {name for name in sparse if epsilon * raw[name] >= 1}
        if not full:
            return {
                name: n if name in dense else round(epsilon * raw[name] * n)
                for name, n in sizes.items()
            }
        dense |= full
    return sizes


def weights_within(
    shapes: Mapping[str, Shape], parameters: int, density: float, setting: str
) -> dict[str, int]:
    """Share out to layers the weights that a density leaves beside biases, norms and classifier.

    Args:
        shapes: of the weights that may go, by name.
        parameters: of the whole model.
        density: share of all parameters that stay, in (0, 1].
        setting: name of the density, for the error.

    Returns:
        Weights kept by name, as :func:`erdos_renyi_kernel`.

    Raises:
        ConfigError: what always stays is more than the density allows.
    """
    weights = sum(math.prod(shape) for shape in shapes.values())
    others = parameters - weights
    budget = density * parameters - others
    if budget < len(shapes):
        raise ConfigError(
            f"{setting}: this model's biases, norms and classifier are {others} of {parameters} "
            f"parameters, so it must be more than {(others + len(shapes)) / parameters:.3g}, got "
            f"{density:g}"
        )
    return erdos_renyi_kernel(shapes, 1 - budget / weights)


def scaled_sparsities(
    shapes: Mapping[str, Shape], biases: Mapping[str, int], sparsity: float
) -> dict[str, int]:
    """Share weights out as FedDST's code does: it scales sparsities where ERK scales densities.

    The outcome is nearly the same in every layer. A layer that would lose all keeps all.

    Args:
        shapes: of weights by name.
        biases: values in the bias beside a weight, which the code counts; 0 where there is none.
        sparsity: S.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    counted = {name: n + biases[name] for name, n in sizes.items()}
    raw = {name: 1 - sum(shape) / sizes[name] for name, shape in shapes.items()}
    scale = sparsity * sum(counted.values()) / math.fsum(raw[n] * counted[n] for n in shapes)
    goes = {name: int(raw[name] * scale * n) for name, n in sizes.items()}
    return {name: n if goes[name] >= n else n - max(goes[name], 0) for name, n in sizes.items()}


def largest(value: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Mark the largest values, ties by index: bool of the value's shape.

    Args:
        value: any shape.
        count: how many; fewer where fewer may be chosen.
        among: bool of the same shape, True where a value may be chosen; None for everywhere.
    """
    flat = value.detach().reshape(-1)
    allowed = torch.ones_like(flat, dtype=torch.bool) if among is None else among.reshape(-1)
    if count >= int(allowed.sum()):
        return allowed.clone().reshape(value.shape)
    if count <= 0:
        return torch.zeros_like(allowed).reshape(value.shape)
    # The value that is just chosen, found without sorting: models have millions of weights.
    flat = flat.masked_fill(~allowed, -math.inf)
    last = torch.kthvalue(flat, flat.numel() - count + 1).values
    chosen = flat > last
    ties = (flat == last).nonzero().reshape(-1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.reshape(value.shape)


def largest_by_layer(
    weights: Mapping[str, Tensor], counts: Mapping[str, int], alive: Mask | None = None
) -> Mask:
    """Keep each layer's largest weights by absolute value.

    Args:
        weights: by name.
        counts: how many of each.
        alive: what may be kept; None for everything.
    """
    among = alive.entries if alive else {}
    entries = {n: largest(weights[n].abs(), k, among.get(n)) for n, k in counts.items()}
    return Mask("parameters", entries)


def largest_of_all(
    weights: Mapping[str, Tensor],
    sparsity: float,
    alive: Mask | None = None,
    *,
    nearest: bool = False,
) -> Mask:
    """Keep the largest weights of all layers together by absolute value.

    Args:
        weights: by name.
        sparsity: share that goes, in [0, 1); what is dead already counts.
        alive: what may be kept; None for everything.
        nearest: of :func:`left`.
    """
    flat = torch.cat([value.reshape(-1) for value in weights.values()]).abs()
    among = None
    if alive is not None:
        among = torch.cat([alive.entries[name].reshape(-1) for name in weights])
    kept = largest(flat, left(flat.numel(), sparsity, nearest=nearest), among)
    parts = torch.split(kept, [value.numel() for value in weights.values()])
    return Mask(
        "parameters",
        {n: part.reshape(weights[n].shape).clone() for n, part in zip(weights, parts, strict=True)},
    )


def left(size: int, sparsity: float, *, nearest: bool = False) -> int:
    """Return how many of so many are left when the share of ``sparsity`` goes.

    Args:
        size: how many there are.
        sparsity: share that goes, in [0, 1].
        nearest: round what goes to the nearest number, halves to the even one, as
            ``torch.nn.utils.prune`` does; else down.
    """
    if nearest:
        return size - round(sparsity * size)
    return size - math.floor(sparsity * size + 1e-9)


def churn(before: Mask | None, after: Mask | None) -> float:
    """Return the share of what is kept that was not kept before; 0 where there is no mask yet."""
    if before is None or after is None:
        return 0.0
    new = sum(int((kept & ~before.entries[name]).sum()) for name, kept in after.entries.items())
    return new / max(after.kept, 1)
