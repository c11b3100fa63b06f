"""FedAvg whose clients send their change of the model, rounded at random to a few levels.

A change v becomes its Euclidean norm and, for each value, a sign and a level of 0 to s. Rounding
up or down is drawn so that the mean of what is sent is v (QSGD). What the server sends is whole.

Source: A. Reisizadeh et al., FedPAQ: A Communication-Efficient Federated Learning Method with
Periodic Averaging and Quantization, AISTATS 2020, https://arxiv.org/abs/1909.13014, algorithm 1 and
example 1; D. Alistarh et al., QSGD, NeurIPS 2017, https://arxiv.org/abs/1610.02132, section 3.1.
Differs from the paper: a norm for every 512 values of a tensor (QSGD's buckets) instead of one for
all, since noise grows with the root of that number; the optimiser is a setting (SGD in the preset
``paper``). BatchNorm's statistics are no weights: they travel as they are and are averaged.
Nothing is pruned, so there are no masks. The rounding is the codec ``quantised``, which any other
method may take for its uplink as well.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.base.parsing import Plugin
from fedx_core.base.state import StateDict
from fedx_core.methods import base
from fedx_core.methods.base import Desk
from fedx_core.wire.messages import Update

Weights = Literal["equal", "examples"]


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg with quantised uplinks; clients say how large the noise is beside their change.

    Args:
        levels: s, 1 to 32,767; a value takes 1 + ceil(log2(s + 1)) bits, so 7 takes 4 bits and 127
            takes 8.
        bucket: values of a tensor that share a norm; 0 gives each tensor one. With 127 levels and
            ResNet18 the noise is 0.07 of the change at 512 and 2.6 times the change at 0.
        weights: of the clients in the mean: ``equal`` as in the paper, whose clients hold equally
            much, or by ``examples`` as in FedAvg.
    """

    levels: int = 127
    bucket: int = 512
    weights: Weights = "equal"

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 32767:
            raise ConfigError(f"levels must be 1 to 32767, got {self.levels}")
        limits.at_least(0, bucket=self.bucket)
        limits.one_of(get_args(Weights), weights=self.weights)

    @property
    def uplink(self) -> Plugin:
        """Quantise the change of each parameter (algorithm 1, line 10)."""
        return Plugin(name="quantised", params={"levels": self.levels, "bucket": self.bucket})

    def _norms(self, size: int) -> int:
        return math.ceil(size / self.bucket) if self.bucket else 1

    def paper_bytes(self, desk: Desk, kept: int, variant: str = "") -> int:
        """Charge float32 down, and up a norm a bucket and the bits of each level."""
        sizes = [math.prod(desk.graph.shapes[name]) for name in desk.graph.parameters]
        bits = kept * (2 * self.levels).bit_length() + 32 * sum(map(self._norms, sizes))
        return 4 * kept + math.ceil(bits / 8)

    def contribution(self, desk: Desk, update: Update) -> tuple[float, StateDict]:
        """Add the model and its quantised change, each client the same or by its examples."""
        weight, model = super().contribution(desk, update)
        return (weight if self.weights == "examples" else 1), model
