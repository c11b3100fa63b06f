"""State dicts of the small model, and the way back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedx_core.base.state import StateDict
from fedx_core.pruning.structure import Cut


def cut(state: Mapping[str, Tensor], cuts: Mapping[str, Cut]) -> StateDict:
    """Keep the alive rows and columns of each entry.

    Args:
        state: entries of the dense model, or anything of their shapes, such as moments.
        cuts: by entry, in mode ``slices``; entries without one are passed on as they are.
    """
    return {
        name: cuts[name].take(value) if name in cuts else value for name, value in state.items()
    }


def grow(
    small: Mapping[str, Tensor],
    cuts: Mapping[str, Cut],
    dense: Mapping[str, Tensor] | None = None,
) -> StateDict:
    """Put alive rows and columns back in their places: undo :func:`cut`.

    Args:
        small: entries of the small model.
        cuts: those that it was cut by.
        dense: where dead values are taken from, entries of the dense shapes; it stays as it is.
            None makes them zero.
    """
    grown = dict(small)
    for name in small.keys() & cuts.keys():
        grown[name] = (
            small[name].new_zeros(cuts[name].whole(small[name].shape))
            if dense is None
            else dense[name].clone(memory_format=torch.contiguous_format)
        )
        cuts[name].put_(small[name], grown[name])
    return grown
