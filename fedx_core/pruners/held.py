"""As many weights stay as before: the largest of those that any client has kept.

The server's half of dynamic sparse training: clients move their masks, and say where; the server
averages each weight over those that keep it, and settles on one mask.

Source: S. Bibikar, H. Vikalo, Z. Wang, X. Chen, Federated Dynamic Sparse Training: Computing Less,
Communicating Less, Yet Learning Better, AAAI 2022, https://arxiv.org/abs/2112.09824; details
follow the authors' code, https://github.com/bibikar/feddst.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedx_core.base import limits, state
from fedx_core.base.errors import ConfigError
from fedx_core.desk.desk import Desk
from fedx_core.pruners import base
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, Scores
from fedx_core.pruning.sparsity import (
    churn,
    erdos_renyi_kernel,
    largest,
    largest_by_layer,
    scaled_sparsities,
)
from fedx_core.wire.messages import RoundReport, ServerState

HELD = "held"
"""Section of the server's memory from a round's sum to its mask: which weights anybody keeps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of how many weights stay, and when masks move.

    Args:
        sparsity: share of the weights of all convolutions and linear layers that are zero (S), in
            (0, 1).
        adjust_every: rounds from one adjustment to the next, the first round being one; 10 to 15
            in the paper, whose runs have 400 rounds.
        adjust_until: the round from which masks stay; half of all rounds in the paper.
        adjust_share: share of a layer's kept weights that move in the first round (alpha), in
            (0, 1]; it falls to zero as a cosine does until ``adjust_until``.
        code_compat: do as the authors' code does where it departs from the paper; see above.
    """

    sparsity: float = 0.8
    adjust_every: int = 5
    adjust_until: int = 10
    adjust_share: float = 0.01
    code_compat: bool = False

    def __post_init__(self) -> None:
        limits.within("(0, 1]", sparsity=self.sparsity, adjust_share=self.adjust_share)
        if self.sparsity == 1:
            raise ConfigError("sparsity must be less than 1, or nothing is left to train")
        limits.at_least(1, adjust_every=self.adjust_every)
        limits.at_least(0, adjust_until=self.adjust_until)

    def share(self, round_index: int) -> float:
        """Return the share of a layer's kept weights that move in a round; 0 in most."""
        if self.code_compat:
            counted = round_index - 1  # from 0, and so is the code's first round to adjust its 1
            due = counted < self.adjust_until and (counted - 1) % self.adjust_every == 0
            return self.adjust_share if due else 0.0
        if round_index >= self.adjust_until or (round_index - 1) % self.adjust_every:
            return 0.0
        return self.adjust_share / 2 * (1 + math.cos(math.pi * round_index / self.adjust_until))


@dataclass(frozen=True, kw_only=True)
class Pruner(Settings, base.Pruner):
    """Keeps as many weights as before, of those that clients hold."""

    needs: ClassVar[str] = "moving masks"

    def start(self, state: ServerState) -> ServerState:
        """Keep the largest of the first weights of each layer."""
        model = state.model
        every = {name: tuple(value.shape) for name, value in model.items()}
        shapes = {name: every[name] for name in base.weights(every)}
        if self.code_compat:
            beside = {name: f"{name.removesuffix('weight')}bias" for name in shapes}
            biases = {n: model[b].numel() if b in model else 0 for n, b in beside.items()}
            counts = scaled_sparsities(shapes, biases, self.sparsity)
        else:
            counts = erdos_renyi_kernel(shapes, self.sparsity)
        mask = largest_by_layer(model, counts)
        return replace(state, model=masks.apply(model, mask.entries), mask=mask)

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Tell whether clients were to move their masks; where not, all hold the same."""
        return any(name.startswith(f"{HELD}/") for name in state.memory)

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Keep as many of a layer's weights as before, the largest that anybody holds."""
        assert state.mask is not None
        held = section(state)
        entries = {
            name: largest(state.model[name].abs(), int(old.sum()), among=held[name])
            for name, old in state.mask.entries.items()
        }
        return Mask("parameters", entries)

    def pruned(self, desk: Desk, state: ServerState, mask: Mask) -> ServerState:
        """Take a mask over, and forget who held what."""
        memory = {n: v for n, v in state.memory.items() if not n.startswith(f"{HELD}/")}
        return super().pruned(desk, replace(state, memory=memory), mask)

    def measured(self, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say how much of the server's mask is new, and what share clients were to move."""
        return {
            "churn": churn(before.mask, after.mask),
            "adjust_share": self.share(after.round_index),
        }


def section(server: ServerState) -> state.StateDict:
    """Return which weights anybody keeps, bool by entry."""
    return state.section(server.memory, HELD)
