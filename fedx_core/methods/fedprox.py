"""FedAvg whose clients are held near the weights that they were sent.

Many local steps on different data let clients drift apart. The local loss gains
``mu/2 ||w - w_t||^2``, where w_t is what the server sent; the server does what FedAvg does.

Source: T. Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020,
https://arxiv.org/abs/1812.06127, equation 2 and algorithm 2.
Differs from the paper: every client takes its full number of epochs, where the paper lets slow ones
stop early. The optimiser is a setting (SGD in the preset ``paper``). The term covers parameters,
not BatchNorm's statistics.
Nothing is pruned, so there are no masks.
"""

from dataclasses import dataclass

from fedx_core.local_rules import proximal
from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken


@dataclass(frozen=True, kw_only=True)
class Method(proximal.Settings, base.Method):
    """FedAvg with a proximal term."""

    def own(self) -> Parts:
        """Pull clients towards what they were sent."""
        return Parts(local=taken(proximal.Rule, self))
