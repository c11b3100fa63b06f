"""The smallest weights go, more and more of them up to a target; a mask may take some back.

Source: Q. Long, C. Anagnostopoulos, S. P. Parambath, D. Bi, FedDIP: Federated Learning with Extreme
Dynamic Pruning and Incremental Regularization, ICDM 2023, https://arxiv.org/abs/2309.06805;
details follow the authors' code, https://github.com/EricLoong/feddip. The cubic schedule is that of
M. Zhu, S. Gupta, To Prune, or Not to Prune, 2017, https://arxiv.org/abs/1710.01878.
Differs from the paper: masks are chosen among all weights each time, since clients may bring pruned
ones back; a share is rounded down. As the code does for ResNets, the classifier and downsampling
are not pruned; neither are norms and biases.
Differs from the code, unless ``code_compat``: the code's server applies its last mask before it
prunes by size again, so each mask lies within the one before and nothing comes back; and it rounds
a share to the nearest number of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.desk.desk import Desk
from fedx_core.pruners import base
from fedx_core.pruning.masks import Mask, Scores
from fedx_core.pruning.sparsity import churn, largest_of_all
from fedx_core.wire.messages import RoundReport, ServerState


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of how many weights go, and when.

    Args:
        sparsity: share of the prunable weights that are zero in the end (s_p), in (0, 1).
        start_sparsity: the same in the first round (s_0), in [0, ``sparsity``].
        target_round: the round in which sparsity and penalty are full (T); all rounds in the paper.
        reconfigure_every: rounds for which a mask holds (R); the first round is always one.
        code_compat: do as the authors' code does where it departs from the paper; see above.
    """

    sparsity: float = 0.9
    start_sparsity: float = 0.5
    target_round: int = 20
    reconfigure_every: int = 5
    code_compat: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start_sparsity <= self.sparsity < 1:
            raise ConfigError(
                "start_sparsity and sparsity must lie in [0, 1), the first no larger than the "
                f"second, got {self.start_sparsity} and {self.sparsity}"
            )
        rounds = {"target_round": self.target_round, "reconfigure_every": self.reconfigure_every}
        limits.at_least(1, **rounds)

    def target(self, round_index: int) -> float:
        """Return the sparsity that a round is to reach: s_p + (s_0 - s_p) (1 - t/T)^3, t from 0."""
        left = 1 - min((round_index - 1) / self.target_round, 1)
        return self.sparsity + (self.start_sparsity - self.sparsity) * left**3


@dataclass(frozen=True, kw_only=True)
class Pruner(Settings, base.Pruner):
    """Prunes weights by size, with a mask made anew every few rounds."""

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Tell whether the last round was the first under its mask."""
        return state.mask is None or (state.round_index - 1) % self.reconfigure_every == 0

    def to_come(self, state: ServerState) -> bool:
        """Tell whether the target is yet to be reached."""
        return state.round_index < self.target_round

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Keep the largest weights of all layers together."""
        return largest_of_all(
            {name: state.model[name] for name in self.masked(desk)},
            self.target(state.round_index),
            alive=state.mask if self.code_compat else None,
            nearest=self.code_compat,
        )

    def masked(self, desk: Desk) -> tuple[str, ...]:
        """Leave the classifier and downsampling alone."""
        layers = (layer for layer in desk.graph.layers if "downsample" not in layer.name)
        return tuple(layer.weight for layer in layers)

    def measured(self, before: ServerState, after: ServerState) -> dict[str, float]:
        """Say how much of the mask is new, and what it aims at."""
        return {
            "churn": churn(before.mask, after.mask),
            "target_sparsity": self.target(after.round_index),
        }
