"""Clients whose mix of classes differs: label skew.

Source: Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019,
https://arxiv.org/abs/1905.12022, and Li et al., ICDE 2022, https://arxiv.org/abs/2102.02079: for
each class, the clients' shares are drawn from a symmetric Dirichlet distribution.
Differs from the paper: an image with several labels counts for the rarest of them; if 50 draws
leave some client short, the last one is repaired from the largest clients, not drawn for ever.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError
from fedx_core.base.seeding import numpy_generator
from fedx_core.images import strata
from fedx_core.partition.base import Known, Numbered, Shares, enough, follow

DRAWS = 50


@dataclass(frozen=True, kw_only=True)
class Partition(Numbered):
    """Share out each class by a Dirichlet draw.

    Args:
        alpha: the smaller, the fewer classes a client has; large values approach equal mixes.
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
        """Draw each class's shares; see :meth:`fedx_core.partition.base.Partition.assign`.

        The test split follows: of each class, a client gets the share that it trains on.
        """
        enough(len(train), self.clients, self.min_examples)
        generator = numpy_generator(seed)
        classes = strata.strata(train.labels)
        for _ in range(DRAWS):
            parts = self._draw(classes, generator)
            if min(len(part) for part in parts) >= self.min_examples:
                break
        else:
            parts = _repaired(parts, self.min_examples, generator)
        return self.named(parts), self.named(follow(parts, train, test, generator))

    def _draw(
        self, classes: NDArray[np.int64], generator: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(self.clients)]
        for index in np.unique(classes):
            members = generator.permutation(np.flatnonzero(classes == index))
            weights = generator.dirichlet(np.full(self.clients, self.alpha))
            borders = np.cumsum(strata.apportion(len(members), weights))[:-1]
            for part, chosen in zip(parts, np.split(members, borders), strict=True):
                part.append(chosen)
        return [np.concatenate(part) for part in parts]


def _repaired(
    parts: list[NDArray[np.int64]], least: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Move examples, one by one, from the largest client to the smallest."""
    repaired = [list(generator.permutation(part)) for part in parts]
    while min(len(part) for part in repaired) < least:
        smallest = min(range(len(repaired)), key=lambda index: len(repaired[index]))
        largest = max(range(len(repaired)), key=lambda index: len(repaired[index]))
        repaired[smallest].append(repaired[largest].pop())
    return [np.array(part, dtype=np.int64) for part in repaired]
