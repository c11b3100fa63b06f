"""Weighted sums of states, one state in memory at a time, in the order in which they are given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from fedx_core.base.errors import RunError, SchemaError
from fedx_core.base.state import StateDict


@dataclass(frozen=True, kw_only=True)
class Total:
    """A weighted sum of states, and the weight that went into it.

    Args:
        weight: of all states together.
        sums: float64 by entry; integer entries (BatchNorm's ``num_batches_tracked``) are the first
            state's that has them, since a sum of counters means nothing.
        weights: by entry, of the states that have it; less than ``weight`` where some lack it.
        dtypes: of the states' entries.
    """

    weight: float
    sums: StateDict
    weights: Mapping[str, float]
    dtypes: Mapping[str, torch.dtype]

    def mean(self) -> StateDict:
        """Average each entry over the states that have it, in its own dtype; divides last.

        Raises:
            RunError: there was no state, or the weights sum to zero.
        """
        if self.weight <= 0:
            raise RunError("no update to aggregate: no client reported any example")
        return {
            name: (value / self.weights[name]).to(self.dtypes[name])
            if self.dtypes[name].is_floating_point
            else value.clone()
            for name, value in self.sums.items()
        }


def total(states: Iterable[tuple[float, StateDict]]) -> Total:
    """Add up weighted states; an entry that a state lacks adds nothing and has its weight less.

    Args:
        states: (weight, state) in cohort order; consumed once, so it may decode lazily.

    Raises:
        SchemaError: an entry has another shape or dtype in one state than in an earlier one.
    """
    sums: StateDict = {}
    dtypes: dict[str, torch.dtype] = {}
    weights: dict[str, float] = {}
    whole = 0.0
    for weight, state in states:
        for name, value in state.items():
            if name not in sums:
                dtypes[name] = value.dtype
                sums[name] = (
                    torch.zeros_like(value, dtype=torch.float64)
                    if value.is_floating_point()
                    else value.clone()
                )
            elif value.shape != sums[name].shape or value.dtype != dtypes[name]:
                raise SchemaError(
                    f"entry {name!r} is {value.dtype} {tuple(value.shape)}, wanted "
                    f"{dtypes[name]} {tuple(sums[name].shape)} as in the states before it"
                )
            if value.is_floating_point():
                sums[name].add_(value, alpha=weight)
            weights[name] = weights.get(name, 0.0) + weight
        whole += weight
        del state  # the next one may take long to come
    return Total(weight=whole, sums=sums, weights=weights, dtypes=dtypes)


def weighted_mean(states: Iterable[tuple[float, StateDict]]) -> StateDict:
    """Average state dicts: FedX eq. 3 with weights proportional to data sizes.

    Args:
        states: (weight, state) in cohort order; see :func:`total`.

    Raises:
        RunError: there is none, or the weights sum to zero.
        SchemaError: as :func:`total`.
    """
    return total(states).mean()
