"""What a value that a client sends may be: its domain, declared where the value is.

Each entry of an uplink has one (``messages.Entry.domain``), and so has each number of a report
(``Method.says``, :data:`fedx_core.learning.evaluation.SCORES`). A value without one is refused, so
that no new field can go unchecked. What depends on the round or on several values at once, such as
that a mask keeps as much as the last one, is ``Method.check_update``'s.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedx_core.base.errors import DomainError, NonFiniteError


@dataclass(frozen=True, kw_only=True)
class Domain:
    """An interval, ends included.

    Args:
        least: smallest value.
        most: largest value.
        whole: only whole numbers.
        ones: how many values of a bool entry are True; None for any number.
    """

    least: float
    most: float
    whole: bool = False
    ones: int | None = None

    def __str__(self) -> str:
        if self.ones is not None:
            return f"{self.ones} that are set"
        return f"{'a whole number from ' if self.whole else ''}{self.least:g} to {self.most:g}"

    def check_number(self, value: float, what: str) -> None:
        """Check one number.

        Raises:
            NonFiniteError: NaN or infinity.
            DomainError: it lies outside.
        """
        if not math.isfinite(value):
            raise NonFiniteError(f"{what} is {value}, wanted {self}")
        if not self.least <= value <= self.most or (self.whole and value != int(value)):
            raise DomainError(f"{what} is {value:.6g}, wanted {self}")

    def check_tensor(self, value: Tensor, what: str) -> None:
        """Check all values of a tensor that is known to be finite.

        Raises:
            DomainError: one lies outside.
        """
        if value.dtype == torch.bool:
            if self.ones is not None and (found := int(value.sum())) != self.ones:
                raise DomainError(f"{what} sets {found} of {value.numel()} values, wanted {self}")
            return
        if not value.numel():
            return
        least, most = (float(x) for x in value.aminmax())
        if least < self.least or most > self.most:
            raise DomainError(f"{what} holds {least:.6g} to {most:.6g}, wanted {self}")
        if self.whole and value.is_floating_point() and bool((value != value.round()).any()):
            raise DomainError(f"{what} holds a fraction, wanted {self}")


LARGEST = 1e18
"""Of any weight or statistic: its square is still a float32."""

WEIGHT = Domain(least=-LARGEST, most=LARGEST)
"""A weight, or its mean; how much one may differ from the others' is
:mod:`fedx_core.rounds.outliers`'."""

POSITIVE = Domain(least=0.0, most=LARGEST)
"""A variance, a sum of squares or a norm."""

COUNT = Domain(least=0, most=2**53, whole=True)
"""How often something happened."""

FLAG = Domain(least=0, most=1, whole=True)
"""True or False, any number of either."""

SHARE = Domain(least=0.0, most=1.0)
"""A share of a whole, or a score such as an accuracy."""

LOSS = Domain(least=0.0, most=1e6)
"""A mean loss; training that has gone beyond this is lost."""

RATIO = Domain(least=0.0, most=1e12)
"""How large something is beside something else."""

SECONDS = Domain(least=0.0, most=1e7)
"""Wall time of a job: 115 days at most."""


def of_entry(name: str) -> Domain:
    """Return the domain of an entry of a model, by its name in the state dict."""
    if name.endswith("running_var"):
        return POSITIVE
    return COUNT if name.endswith("num_batches_tracked") else WEIGHT
