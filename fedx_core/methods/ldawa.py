"""A layer of a client counts by the cosine of its angle to the server's.

Clients that drift away turn their layers away from the server's, and so count less, layer by layer:

    w_l = 1/K sum_k cos(w_(k,l), w^t_l) w_(k,l)

Source: Y. A. U. Rehman, Y. Gao, P. P. B. de Gusmao, M. Alibeigi, J. Shen, N. D. Lane, L-DAWA:
Layer-wise Divergence Aware Weight Aggregation in Federated Self-Supervised Visual Representation
Learning, ICCV 2023, https://arxiv.org/abs/2307.07393; details follow the authors' code,
https://github.com/yasar-rehman/L-DAWA.
Differs from the code: a tensor of zeros has no angle, so its clients count by 1, where the code
divides by zero; BatchNorm's statistics are no layers, and are averaged plainly. Clients count
equally, as there. The formula makes layers shorter from round to round; ``normalise`` does not.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedx_core.base.state import StateDict
from fedx_core.methods import base
from fedx_core.methods.base import Desk, Updates, total
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Averaging by angular divergence.

    Args:
        normalise: divide by the sum of the cosines in place of the number of clients, so that
            lengths stay; where the sum is not positive, the layer stays the server's.
    """

    sees_each: ClassVar[bool] = True
    pre_trains: ClassVar[bool] = True

    normalise: bool = False

    def settle_each(self, desk: Desk, before: ServerState, updates: Updates) -> ServerState:
        """Add up layers by their cosines."""
        weighed: StateDict = {}
        cosines: dict[str, float] = {}
        counts: dict[str, int] = {}
        mean = total((1.0, self.contribution(desk, update)[1]) for update in updates).mean()
        for update in updates:
            _, model = self.contribution(desk, update)
            for name, value in model.items():
                if name not in desk.graph.parameters or name not in before.model:
                    continue
                near = cosine(value, before.model[name])
                weighed.setdefault(name, torch.zeros_like(value, dtype=torch.float64))
                weighed[name].add_(value, alpha=near)
                cosines[name] = cosines.get(name, 0.0) + near
                counts[name] = counts.get(name, 0) + 1
        model = {name: mean.get(name, value) for name, value in before.model.items()}
        for name, value in weighed.items():
            by = cosines[name] if self.normalise else counts[name]
            old = before.model[name]
            model[name] = (value / by).to(old.dtype) if by > 0 else old
        settled = replace(before, round_index=before.round_index + 1, model=model)
        return self.stepped(desk, before, settled)


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two tensors' angle, at most 1; 1 where one of them is zero."""
    one, other = one.double(), other.double()
    length = float(one.norm() * other.norm())
    return min(float((one * other).sum()) / length, 1.0) if length else 1.0
