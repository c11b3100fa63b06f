"""Averages of updates, one update in memory at a time, in the order in which they are given."""

from collections.abc import Iterable

import torch

from fedx_core.errors import RunError
from fedx_core.state import StateDict, require_same_layout


def weighted_mean(states: Iterable[tuple[float, StateDict]]) -> StateDict:
    """Average state dicts: FedX eq. 3 with weights proportional to data sizes.

    Sums in float64 and divides last. Integer entries (BatchNorm's ``num_batches_tracked``) are
    taken from the first state, since a mean of counters means nothing.

    Args:
        states: (weight, state) in cohort order; consumed once, so it may decode lazily.

    Raises:
        RunError: there is none, or the weights sum to zero.
        SchemaError: two states differ in names, shapes or dtypes.
    """
    first: StateDict = {}
    sums: StateDict = {}
    total = 0.0
    for weight, state in states:
        if not first:
            # Of whole tensors no more than the layout is held on to: memory for one update less.
            first = {
                name: value.to("meta") if value.is_floating_point() else value
                for name, value in state.items()
            }
            sums = {
                name: torch.zeros_like(value, dtype=torch.float64)
                for name, value in state.items()
                if value.is_floating_point()
            }
        else:
            require_same_layout(first, state)
        for name, running in sums.items():
            running.add_(state[name], alpha=weight)
        total += weight
        del state  # the next one may take long to come
    if total <= 0:
        raise RunError("no update to aggregate: no client reported any example")
    return {
        name: sums[name].div_(total).to(value.dtype) if name in sums else value.clone()
        for name, value in first.items()
    }
