"""One client a country (or whatever the groups are), as in FedX's BigEarthNet experiment.

Clients differ in size, in which classes they have and in how these look.
"""

from dataclasses import dataclass

import numpy as np

from fedx_core.errors import DataError
from fedx_core.partition import base
from fedx_core.partition.base import Known, Shares, client_name


@dataclass(frozen=True, kw_only=True)
class Partition(base.Partition):
    """Give each group's examples to the client of its name; draws nothing."""

    def assign(
        self, train: Known, test: Known, group_names: tuple[str, ...], seed: int
    ) -> tuple[Shares, Shares]:
        """Split by group; see :meth:`fedx_core.partition.base.Partition.assign`.

        Raises:
            DataError: there are no groups, two have the same client name, or one has images to
                test on but none to train on.
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
            if not len(parts[0]):
                continue
            name = client_name(group)
            if name in shares[0]:
                raise DataError(
                    f"two groups give the client name {name!r}, one of them {group!r}; rename it"
                )
            for share, part in zip(shares, parts, strict=True):
                share[name] = part
        return shares
