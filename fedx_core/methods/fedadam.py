"""FedAvg whose server steps by Adam: the mean of the clients' changes is its gradient.

Source: S. Reddi et al., Adaptive Federated Optimization, ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2 (FedAdam). FedYogi is ``fedyogi``.
Differs from the paper: clients are weighted by their examples. Their optimiser is a setting (SGD in
the preset ``paper``). BatchNorm's statistics are no weights: they are averaged plainly. As in the
paper, moments are not corrected for their start.
Nothing is pruned, so there are no masks.
"""

from dataclasses import dataclass

from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken
from fedx_core.server_steps import fedadam


@dataclass(frozen=True, kw_only=True)
class Method(fedadam.Settings, base.Method):
    """FedAvg with Adam at the server; the moments are the server's memory."""

    def own(self) -> Parts:
        """Step by Adam."""
        return Parts(server=taken(fedadam.ServerStep, self))
