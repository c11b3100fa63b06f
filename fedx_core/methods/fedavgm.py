"""FedAvg whose server keeps momentum: each step goes on in the direction of the earlier ones.

Source: T. Hsu, H. Qi, M. Brown, Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification, 2019, https://arxiv.org/abs/1909.06335, section 4.3.
Differs from the paper: the clients' optimiser is a setting (SGD in the preset ``paper``).
BatchNorm's statistics are no weights: they are averaged plainly.
Nothing is pruned, so there are no masks.
"""

from dataclasses import dataclass

from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken
from fedx_core.server_steps import fedavgm


@dataclass(frozen=True, kw_only=True)
class Method(fedavgm.Settings, base.Method):
    """FedAvg with momentum at the server; the velocity is the server's memory."""

    def own(self) -> Parts:
        """Step by the velocity."""
        return Parts(server=taken(fedavgm.ServerStep, self))
