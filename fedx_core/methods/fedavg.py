"""Federated averaging: every client trains the whole model, the server averages by examples.

Source: H. B. McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
Data, AISTATS 2017, https://arxiv.org/abs/1602.05629.
Differs from the paper: the optimiser is a setting (Adam by default, as in FedX; SGD in the
preset ``paper``).
"""

from dataclasses import dataclass

from fedx_core.methods import base


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg; all stages are the base's."""
