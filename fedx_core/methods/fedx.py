"""Explanation-guided pruning of federated updates.

The server explains its model on a small reference set, prunes the units that carry the least
relevance, and from then on clients and server exchange only what is left.

Source: B. Büyüktaş, J. Klotz, B. Demir, FedX: Explanation-Guided Pruning for
Communication-Efficient Federated Learning in Remote Sensing, https://arxiv.org/abs/2508.06256.
Equation numbers are the paper's. The criterion decides which baseline this is: ``lrp`` and
``integrated_gradients`` are the paper's, ``random``, ``magnitude`` and ``taylor`` its rivals with
the same units and counts.
Differs from the paper: a pruned unit is held at zero in every local step, with its bias, BatchNorm
shift and everything that reads it, so that it can go without changing the function. ``mask: row``
is algorithm 1 to the letter: weight rows alone, masked after local training (line 8), within which
they come back wherever a gradient gets through (behind a ReLU, if BatchNorm's shift is above zero).
``mask: row_and_scale`` takes the scalar along that Table I counts, BatchNorm's scale or else the
unit's bias. With BatchNorm neither row nor scale has a gradient then, so both stay zero by
themselves, and the unit says the same whatever it sees: its shift. Relevance is averaged in
absolute value by default (see ``relevance``), as the code that the paper builds on does.
"""

from dataclasses import dataclass

from fedx_core.methods import base
from fedx_core.methods.base import Parts, taken
from fedx_core.pruners import relevance


@dataclass(frozen=True, kw_only=True)
class Method(relevance.Settings, base.Method):
    """FedAvg whose exchanged parameters thin out by relevance."""

    def own(self) -> Parts:
        """Prune by relevance."""
        return Parts(pruner=taken(relevance.Pruner, self))
