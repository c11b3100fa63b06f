"""FedAdam whose second moment forgets slowly: a large change is not outlived by many small ones.

Source: S. Reddi et al., Adaptive Federated Optimization, ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2 (FedYogi).
Differs from the paper: as ``fedadam``.
"""

from dataclasses import dataclass

from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken
from fedx_core.server_steps import fedadam, fedyogi


@dataclass(frozen=True, kw_only=True)
class Method(fedadam.Settings, base.Method):
    """FedAvg with Yogi at the server; settings are those of ``fedadam``."""

    def own(self) -> Parts:
        """Step by Yogi."""
        return Parts(server=taken(fedyogi.ServerStep, self))
