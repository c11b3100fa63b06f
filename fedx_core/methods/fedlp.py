"""Layer-wise pruning: each client sends each layer with some probability only.

Clients are sent and train the whole model. Which layers they send back is drawn anew in every
round; the server averages each layer over the clients that sent it, and keeps its own where none
did.

Source: Z. Zhu, Y. Shi, J. Luo, F. Wang, C. Peng, P. Fan, K. B. Letaief, FedLP: Layer-wise Pruning
Mechanism for Communication-Computation Efficient Federated Learning, ICC 2023,
https://arxiv.org/abs/2303.06360; details follow the authors' code,
https://github.com/Zhuzzq/FedLP.
Differs from the paper: one probability for all clients. A layer is all that a module owns; the
code, and ``code_compat``, draw for every tensor apart, so that a weight can come without its bias.
Clients count equally, as in the code. This is the homogeneous scheme; the heterogeneous one is
``fedlp_hetero``.
"""

from dataclasses import dataclass

from fedx_core.exchanges import layers
from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken


@dataclass(frozen=True, kw_only=True)
class Method(layers.Settings, base.Method):
    """FedAvg with uplinks of some layers."""

    def own(self) -> Parts:
        """Send some layers."""
        return Parts(exchange=taken(layers.Exchange, self))
