"""Few weights, at places drawn from the seed.

Each layer keeps as many as Erdős-Rényi-Kernel densities give it, so that small layers keep nearly
all and large ones few. Where they lie is drawn, and never sent. Networks several times as large as
the task needs lose little by it, while all that travels shrinks with the density.

Source: densities of U. Evci et al., Rigging the Lottery, ICML 2020,
https://arxiv.org/abs/1911.11134, section 3; that random places do nearly as well as chosen ones: S.
Liu et al., The Unreasonable Effectiveness of Random Pruning, ICLR 2022,
https://arxiv.org/abs/2202.02643.
Differs from the papers: first weights are not scaled up for what their layer lacks, since BatchNorm
follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedx_core.base import limits, seeding
from fedx_core.pruning.sparsity import Shape, weights_within


@dataclass(frozen=True, kw_only=True)
class Support:
    """A share of the weights, at random places.

    Args:
        density: share of the model's parameters that exist, those of norms and classifier counted,
            in (0, 1].
    """

    density: float = 0.05

    def __post_init__(self) -> None:
        limits.within("(0, 1]", density=self.density)

    def choose(self, shapes: Mapping[str, Shape], others: int, seed: int) -> Mapping[str, Tensor]:
        """Draw each layer's places by itself.

        Raises:
            ConfigError: what always exists is more than the density allows.
        """
        weights = sum(torch.Size(shape).numel() for shape in shapes.values())
        counts = weights_within(shapes, weights + others, self.density, "support.density")
        kept = {}
        for name, count in counts.items():
            size = torch.Size(shapes[name])
            random = seeding.numpy_generator(seeding.derive(seed, "support", name))
            flat = torch.zeros(size.numel(), dtype=torch.bool)
            flat[torch.from_numpy(random.permutation(size.numel())[:count])] = True
            kept[name] = flat.reshape(size)
        return kept
