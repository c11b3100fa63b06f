"""Thresholds that are learned: a unit counts where its weights are larger on average.

Source: M. Kim, W. Saad, M. Debbah, C. S. Hong, SpaFL, NeurIPS 2024,
https://arxiv.org/abs/2406.00431; details follow the authors' code,
https://github.com/news-vt/SpaFL_NeruIPS_2024.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedx_core.base.state import StateDict

LEAST_DENSITY = 0.01
"""A layer that keeps no more than this share of its units starts anew, at thresholds of zero."""


def sparse(
    weights: Mapping[str, Tensor], taus: Mapping[str, Tensor], *, code_compat: bool = False
) -> StateDict:
    """Zero the units that lie below their thresholds, which start anew if hardly any are left.

    Args:
        weights: of the model, by name.
        taus: float32 (units,) by layer; zeroed in place where a layer has died out.
        code_compat: of :func:`kept_units`.
    """
    found = dict(weights)
    for name, tau in taus.items():
        value = weights[f"{name}.weight"]
        kept = kept_units(value, tau, code_compat=code_compat)
        if float(kept.detach().mean()) <= LEAST_DENSITY:
            with torch.no_grad():
                tau.zero_()
            kept = kept_units(value, tau, code_compat=code_compat)
        found[f"{name}.weight"] = value * kept.reshape(-1, *[1] * (value.ndim - 1))
    return found


def kept_units(weight: Tensor, tau: Tensor, *, code_compat: bool = False) -> Tensor:
    """Mark the units whose weights are larger on average than their threshold.

    Args:
        weight: float (units, ...).
        tau: float (units,).
        code_compat: let the gradient pass outside of [-1, 1], as the code does, instead of inside.

    Returns:
        1 or 0, float (units,), with the gradient of their margin where it may pass.
    """
    margin = weight.abs().flatten(1).mean(1) - tau
    inside = margin.clamp(-1, 1)
    through = margin - inside if code_compat else inside
    return (margin > 0).to(margin.dtype) + (through - through.detach())


def yielded(weight: Tensor, change: Tensor, *, code_compat: bool = False) -> Tensor:
    """Move each unit's weights against the sign of their sum by its threshold's change.

    Args:
        weight: float (units, ...).
        change: of the mean threshold, float (units,); shared out to a unit's weights.
        code_compat: divide by the size of a convolution's kernel, as the code does, instead of by
            all its weights.
    """
    rows = weight.flatten(1)
    shares = math.prod(weight.shape[2:]) if code_compat and weight.ndim > 2 else rows.shape[1]
    step = change * rows.sum(1).sign() / shares
    return (rows - step[:, None]).reshape(weight.shape)
