"""Iterative magnitude pruning of the global model: every later model lives within the earlier one.

All clients start from the same random weights. Every few rounds the server removes a share of the
weights that are left, the smallest, and both directions carry what remains.

Source: A. Herzog, R. Southam, I. Mavromatis, A. Khan, FedMap: Iterative Magnitude-Based Pruning for
Communication-Efficient Federated Learning, https://arxiv.org/abs/2406.19050.
Differs from the paper: only its abstract was at hand, so the share, the interval and what is left
out (norms, biases and the classifier) are ours. Clients are sent the mask when it changes, at a bit
a weight, where the paper lets them read it from the zeros.
"""

from dataclasses import dataclass

from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken
from fedx_core.pruners import iterative


@dataclass(frozen=True, kw_only=True)
class Method(iterative.Settings, base.Method):
    """FedAvg whose model loses its smallest weights step by step."""

    def own(self) -> Parts:
        """Prune step by step."""
        return Parts(pruner=taken(iterative.Pruner, self))
