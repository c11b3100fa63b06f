"""FedAdam whose second moment forgets slowly: a large change is not outlived by many small ones.

Source: S. Reddi et al., Adaptive Federated Optimization, ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2 (FedYogi).
Differs from the paper: as ``fedadam``.
"""

from dataclasses import dataclass

from torch import Tensor

from fedx_core.server_steps import fedadam


@dataclass(frozen=True, kw_only=True)
class ServerStep(fedadam.ServerStep):
    """Yogi on the mean change; settings are those of ``fedadam``."""

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """Step towards the squared change by its own size, not by the distance (line 12)."""
        return v - (1 - self.beta_2) * square * (v - square).sign()
