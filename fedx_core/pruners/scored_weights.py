"""Few weights stay: those with the highest scores, by any criterion that scores single weights.

One event, after which every method trains and exchanges what is left. What ``support: seeded``
draws from the seed before training, this chooses after some rounds, by what the criterion saw; the
mask travels, a bit a weight, once to each client.

Source: connection by connection as in N. Lee et al., SNIP, ICLR 2019,
https://arxiv.org/abs/1810.02340; densities of U. Evci et al., Rigging the Lottery, ICML 2020,
https://arxiv.org/abs/1911.11134, section 3. By LRP, weights as in S. Yeom et al., Pruning by
Explaining, Pattern Recognition 2021, https://arxiv.org/abs/1912.08881, which prunes units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.base.parsing import Slot
from fedx_core.desk.desk import Desk
from fedx_core.pruners import _asking as asking
from fedx_core.pruners import base
from fedx_core.pruning.masks import Mask, Scores
from fedx_core.pruning.sparsity import largest, weights_within
from fedx_core.relevance.base import Criterion, Weighing
from fedx_core.wire.messages import RoundReport, ServerState

Scope = Literal["unit", "layer", "global"]


@dataclass(frozen=True, kw_only=True)
class Pruner(base.Pruner):
    """Prunes single weights, once, by a criterion.

    Args:
        density: share of the model's parameters that stay, those of norms and classifier counted,
            in (0, 1].
        warmup_rounds: completed rounds before the event, 1 or more.
        relevance: a file of ``fedx_core/relevance`` with its parameters: ``lrp``, ``snip``,
            ``magnitude`` or ``random``.
        scope: ``unit`` keeps the best of what each unit reads, as many for one as for another of
            its layer; ``layer`` the best of each layer, ``global`` the best of all. A layer keeps
            as many as Erdős-Rényi-Kernel densities give it, unless it is ``global``. High scores
            lie close together, so all but ``unit`` leave many units with nothing to read.
    """

    density: float = 0.05
    warmup_rounds: int = 1
    relevance: Annotated[Mapping[str, Any], Slot("relevance")] = field(
        default_factory=lambda: {"name": "lrp"}
    )
    scope: Scope = "unit"

    def __post_init__(self) -> None:
        limits.within("(0, 1]", density=self.density)
        limits.at_least(1, warmup_rounds=self.warmup_rounds)
        limits.one_of(get_args(Scope), scope=self.scope)
        _ = self.criterion

    @property
    def criterion(self) -> Criterion:
        """What scores weights."""
        return asking.criterion(self.relevance)

    def check(self, desk: Desk) -> None:
        """Ask whether the criterion scores weights, and whether the density leaves any."""
        self.criterion.check(desk.graph)
        if not isinstance(self.criterion, Weighing):
            raise ConfigError(
                f"method.pruner.relevance: {self.relevance['name']} scores whole units and no "
                "single weights; choose lrp, snip, magnitude or random, or the method fedx"
            )
        asking.check(self.criterion, desk)
        self._kept(desk)

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Prune once."""
        return state.round_index == self.warmup_rounds

    def to_come(self, state: ServerState) -> bool:
        """Tell whether the event is yet to come."""
        return state.round_index < self.warmup_rounds

    def scores(self, desk: Desk, state: ServerState) -> Scores:
        """Score the weights, float32 of the weight's shape by entry."""
        criterion = self.criterion
        assert isinstance(criterion, Weighing)
        return asking.ask(criterion, criterion.weigh, desk, state)

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Keep the highest."""
        kept = self._kept(desk)
        if self.scope != "global":
            ranked = {n: by_unit(scores[n]) if self.scope == "unit" else scores[n] for n in kept}
            return Mask("parameters", {n: largest(ranked[n], kept[n]) for n in kept})
        every = largest(torch.cat([scores[n].reshape(-1) for n in kept]), sum(kept.values()))
        parts = torch.split(every, [scores[name].numel() for name in kept])
        return Mask(
            "parameters",
            {n: p.reshape(scores[n].shape).clone() for n, p in zip(kept, parts, strict=True)},
        )

    def masked(self, desk: Desk) -> tuple[str, ...]:
        """Leave the classifier alone."""
        return tuple(layer.weight for layer in desk.graph.layers)

    def _kept(self, desk: Desk) -> dict[str, int]:
        shapes = {name: desk.entries[name][1] for name in self.masked(desk)}
        parameters = sum(value.numel() for value in desk.model.parameters())
        return weights_within(shapes, parameters, self.density, "method.pruner.density")


def by_unit(scores: Tensor) -> Tensor:
    """Put the best of each row before the second best of any, and so on.

    Args:
        scores: of a layer's weights, (rows, ...).

    Returns:
        float64 of the same shape: the higher, the earlier a weight is kept; of as good a place in
        their rows those with the higher scores come first.
    """
    rows = scores.flatten(1).double()
    place = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    every = rows.flatten().argsort(stable=True).argsort().reshape(rows.shape)
    return (every / rows.numel() - place).reshape(scores.shape)
