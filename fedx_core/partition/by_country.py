"""One client a country (or whatever the groups are), as in FedX's BigEarthNet experiment.

Clients differ in size, in which classes they have and in how these look.
"""

from dataclasses import dataclass

import numpy as np

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.partition import base
from fedx_core.partition.base import Known, Shares, client_name


@dataclass(frozen=True, kw_only=True)
class Partition(base.Partition):
    """Give each group's examples to the client of its name; draws nothing.

    Args:
        min_examples: training examples that a group needs to be a client; smaller ones are left
            out. Models with BatchNorm train on two or more.
    """

    min_examples: int = 1

    def __post_init__(self) -> None:
        if self.min_examples < 1:
            raise ConfigError(f"min_examples must be 1 or more, got {self.min_examples}")

    @property
    def leaves_out(self) -> bool:
        """Small groups go to nobody where ``min_examples`` says so."""
        return self.min_examples > 1

    def assign(
        self, train: Known, test: Known, group_names: tuple[str, ...], seed: int
    ) -> tuple[Shares, Shares]:
        """Split by group; see :meth:`fedx_core.partition.base.Partition.assign`.

        Raises:
            DataError: there are no groups, two have the same client name, one has images to test
                on but none to train on, or none has enough.
        """
        if not group_names:
            raise DataError(
                "the data set has no groups to make clients of; choose another partition (iid, "
                "dirichlet, quantity), or add a group column to its labels"
            )
        shares: tuple[Shares, Shares] = ({}, {})
        for index, group in enumerate(group_names):
            parts = [np.flatnonzero(split.groups == index) for split in (train, test)]
            if len(parts[1]) and not len(parts[0]):
                raise DataError(
                    f"group {group!r} has {len(parts[1])} images to test on but none to train on; "
                    "raise the data set's limit, or leave the group out"
                )
            if len(parts[0]) < self.min_examples:
                continue
            name = client_name(group)
            if name in shares[0]:
                raise DataError(
                    f"two groups give the client name {name!r}, one of them {group!r}; rename it"
                )
            for share, part in zip(shares, parts, strict=True):
                share[name] = part
        if not shares[0]:
            raise DataError(
                f"no group has {self.min_examples} training images; lower min_examples, or raise "
                "the data set's limit"
            )
        return shares
