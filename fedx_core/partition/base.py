"""What a partition rule is: labels and groups in, one shard of training and test a client out.

A rule is a file ``partition/<name>.py`` with a frozen dataclass ``Partition`` whose fields are its
parameters in ``params.yaml``. It sees labels and groups only, never pixels.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError
from fedx_core.images import strata

Shares = dict[str, NDArray[np.int64]]
"""Sorted positions by client; every position of a split at exactly one client."""

CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Known:
    """What a rule may look at.

    Args:
        labels: int64 (n,), or uint8 (n, classes).
        groups: int16 (n,) index into the data set's ``group_names``.
    """

    labels: NDArray[np.integer]
    groups: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Partition(ABC):
    """A rule that splits examples among clients."""

    @property
    def leaves_out(self) -> bool:
        """Whether some examples may go to nobody, because somebody has asked for that."""
        return False

    @abstractmethod
    def assign(
        self, train: Known, test: Known, group_names: tuple[str, ...], seed: int
    ) -> tuple[Shares, Shares]:
        """Split the training and the test examples; same clients in the same order in both.

        Args:
            train: labels and groups of the training split.
            test: of the test split.
            group_names: names of the groups.
            seed: of the draws; equal seeds give equal shares.

        Raises:
            DataError: there are too few examples for so many clients.
        """


@dataclass(frozen=True, kw_only=True)
class Numbered(Partition):
    """A rule whose clients have numbers for names.

    Args:
        clients: how many.
    """

    clients: int

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise ConfigError(f"clients must be 1 or more, got {self.clients}")

    @property
    def names(self) -> list[str]:
        """``client-00``, ``client-01`` and so on."""
        digits = max(2, len(str(self.clients - 1)))
        return [f"client-{index:0{digits}d}" for index in range(self.clients)]

    def named(self, parts: list[NDArray[np.int64]]) -> Shares:
        """Give parts to clients in order."""
        return {name: np.sort(part) for name, part in zip(self.names, parts, strict=True)}


def enough(size: int, clients: int, least: int = 1) -> None:
    """Check that each client can get ``least`` of ``size`` examples.

    Raises:
        DataError: it can't.
    """
    if size < clients * least:
        raise DataError(
            f"{size} training examples are too few for {clients} clients with at least {least} "
            "each; set fewer clients, or raise the data set's limit or size"
        )


def follow(
    shares: list[NDArray[np.int64]], train: Known, test: Known, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split the test examples as the training examples are split, class by class.

    Of each class (of an image's rarest one in training, if it has several) a client tests on the
    share that it trains on. A class that nobody trains on is split by the clients' sizes.
    """
    counts = None
    if train.labels.ndim == 2:
        counts = strata.label_counts(train.labels, train.labels.shape[1])
    train_classes = strata.strata(train.labels, counts)
    test_classes = strata.strata(test.labels, counts)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in shares]
    for index in np.unique(test_classes):
        weights = [int((train_classes[share] == index).sum()) for share in shares]
        if not any(weights):
            weights = [len(share) for share in shares]
        members = generator.permutation(np.flatnonzero(test_classes == index))
        borders = np.cumsum(strata.apportion(len(members), weights))[:-1]
        for part, chosen in zip(parts, np.split(members, borders), strict=True):
            part.append(chosen)
    return [np.concatenate([*part, np.empty(0, np.int64)]) for part in parts]


def client_name(group: str) -> str:
    """Turn a group's name into a client's: ``Côte d'Ivoire`` into ``cote-d-ivoire``.

    Raises:
        DataError: nothing of it can stand in a client's name.
    """
    plain = unicodedata.normalize("NFKD", group).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63]
    if not CLIENT_NAME.fullmatch(name):
        raise DataError(f"group {group!r} gives no client name; it needs a letter a-z or a digit")
    return name


def check(shares: Mapping[str, NDArray[np.int64]], size: int, *, leaves_out: bool = False) -> None:
    """Check a rule's answer: fit names, and every example at exactly one client.

    Args:
        shares: positions by client.
        size: how many examples there are.
        leaves_out: whether some may be at none.

    Raises:
        DataError: the rule is wrong.
    """
    for name in shares:
        if not CLIENT_NAME.fullmatch(name):
            raise DataError(
                f"client name {name!r} must match {CLIENT_NAME.pattern}; have the partition rule "
                "make other names"
            )
    given = np.sort(np.concatenate([*shares.values(), np.empty(0, np.int64)]))
    wanted = np.unique(given) if leaves_out else np.arange(size)
    if not np.array_equal(given, wanted) or (len(given) and not 0 <= given[0] <= given[-1] < size):
        raise DataError(
            f"the partition rule gave {len(given)} positions of {size} examples; wanted each "
            "exactly once"
        )
