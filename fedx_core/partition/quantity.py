"""Clients of unequal size with the same mix of classes.

Source: quantity skew of Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022,
https://arxiv.org/abs/2102.02079: sizes follow a Dirichlet distribution.
"""

from dataclasses import dataclass

import numpy as np

from fedx_core.base.errors import ConfigError
from fedx_core.base.seeding import numpy_generator
from fedx_core.images import strata
from fedx_core.partition.base import Known, Numbered, Shares, enough


@dataclass(frozen=True, kw_only=True)
class Partition(Numbered):
    """Deal out shuffled examples in shares drawn from a Dirichlet distribution.

    Args:
        alpha: the smaller, the less equal the sizes; above 0.
        min_examples: training examples that each client gets in any case.
    """

    alpha: float
    min_examples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha > 0:
            raise ConfigError(f"alpha must be above 0, got {self.alpha}")
        if self.min_examples < 1:
            raise ConfigError(f"min_examples must be 1 or more, got {self.min_examples}")

    def assign(
        self, train: Known, test: Known, group_names: tuple[str, ...], seed: int
    ) -> tuple[Shares, Shares]:
        """Draw sizes; see :meth:`fedx_core.partition.base.Partition.assign`."""
        enough(len(train), self.clients, self.min_examples)
        generator = numpy_generator(seed)
        weights = generator.dirichlet(np.full(self.clients, self.alpha))
        spare = len(train) - self.clients * self.min_examples
        train_sizes = self.min_examples + strata.apportion(spare, weights)
        parts = [
            np.split(generator.permutation(len(split)), np.cumsum(sizes)[:-1])
            for split, sizes in (
                (train, train_sizes),
                (test, strata.apportion(len(test), train_sizes)),
            )
        ]
        return self.named(parts[0]), self.named(parts[1])
