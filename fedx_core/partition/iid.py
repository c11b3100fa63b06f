"""Equal shares, drawn at random: clients differ by chance only."""

from dataclasses import dataclass

import numpy as np

from fedx_core.base.seeding import numpy_generator
from fedx_core.partition.base import Known, Numbered, Shares, enough


@dataclass(frozen=True, kw_only=True)
class Partition(Numbered):
    """Deal out shuffled examples; sizes differ by one at most."""

    def assign(
        self, train: Known, test: Known, group_names: tuple[str, ...], seed: int
    ) -> tuple[Shares, Shares]:
        """Split at random; see :meth:`fedx_core.partition.base.Partition.assign`."""
        enough(len(train), self.clients)
        generator = numpy_generator(seed)
        shuffled = [generator.permutation(len(split)) for split in (train, test)]
        parts = [np.array_split(order, self.clients) for order in shuffled]
        return self.named(parts[0]), self.named(parts[1])
