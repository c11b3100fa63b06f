"""Units go that carry the least relevance; by any criterion of ``fedx_core/relevance``.

Source: B. Büyüktaş, J. Klotz, B. Demir, FedX: Explanation-Guided Pruning for
Communication-Efficient Federated Learning in Remote Sensing, https://arxiv.org/abs/2508.06256.
Equation numbers are the paper's.
Differs from the paper: a pruned unit is held at zero in every local step, with its bias, BatchNorm
shift and everything that reads it, so that it can go without changing the function. ``mask: row``
is algorithm 1 to the letter: weight rows alone, masked after local training (line 8), within which
they come back wherever a gradient gets through (behind a ReLU, if BatchNorm's shift is above zero).
``mask: row_and_scale`` takes the scalar along that Table I counts, BatchNorm's scale or else the
unit's bias. With BatchNorm neither row nor scale has a gradient then, so both stay zero by
themselves, and the unit says the same whatever it sees: its shift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.base.parsing import Slot
from fedx_core.base.state import StateDict
from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local
from fedx_core.pruners import _asking as asking
from fedx_core.pruners import base
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, Scope, Scores, keep_highest
from fedx_core.pruning.schedule import Schedule
from fedx_core.pruning.structure import Mode, UnitGraph
from fedx_core.relevance.base import Criterion
from fedx_core.wire import domains
from fedx_core.wire.domains import Domain
from fedx_core.wire.messages import RoundReport, ServerState

Masking = Literal["unit", "row", "row_and_scale"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of when units go, how many, and by what.

    Args:
        pruning_rate: share of units removed (q), in [0, 1).
        warmup_rounds: completed rounds before the pruning event (v).
        relevance: a file of ``fedx_core/relevance`` with its parameters.
        scope: ``layer`` removes floor(q C) of each layer, ``global`` the lowest of all units.
        min_keep: units that stay in every layer; 0 in the paper.
        recompute_every: rounds between further events; 0 prunes once. The rate then rises evenly
            over ``recompute_times`` events, and dead units stay dead.
        recompute_times: events in all, 2 or more where ``recompute_every`` is set, else 1.
        regrow: score with the rows kept from before the mask, at the full rate each time, so that
            units can come back.
        mask: what a pruned unit loses. ``unit``: all it owns and what reads it, in each local step.
            ``row``: its weight row, after local training (algorithm 1). ``row_and_scale``: its
            weight row and the scalar beside it that Table I counts, after local training.
        paper_mode: the earlier name of ``mask: row_and_scale``; give that instead.
        coupled: sum the scores of all layers that write a residual channel, so that whole channels
            go and the model shrinks further. ResNets alone have channels that can go; with
            ``scope: global`` such a channel counts as one unit.
        units: ``rows`` of every weight, or attention ``heads`` instead of the rows of ``qkv``.
    """

    pruning_rate: float
    warmup_rounds: int = 10
    relevance: Annotated[Mapping[str, Any], Slot("relevance")] = field(
        default_factory=lambda: {"name": "lrp"}
    )
    scope: Scope = "layer"
    min_keep: int = 0
    recompute_every: int = 0
    recompute_times: int = 1
    regrow: bool = False
    mask: Masking = "unit"
    paper_mode: bool = False
    coupled: bool = False
    units: Literal["rows", "heads"] = "rows"

    def __post_init__(self) -> None:
        _ = self.schedule
        _ = self.criterion
        limits.one_of(get_args(Masking), mask=self.mask)
        if self.paper_mode and self.mask != "unit":
            raise ConfigError(
                "paper_mode is the earlier name of mask: row_and_scale, and mask is "
                f"{self.mask!r}; leave paper_mode out"
            )
        limits.at_least(0, min_keep=self.min_keep)
        if self.regrow and not self.recompute_every:
            raise ConfigError("regrow needs recompute_every of 1 or more: with one event only, "
                              "nothing can come back")  # fmt: skip

    @property
    def schedule(self) -> Schedule:
        """When events take place and how much they remove."""
        return Schedule(
            self.pruning_rate, self.warmup_rounds, self.recompute_every, self.recompute_times
        )

    @property
    def criterion(self) -> Criterion:
        """What scores units."""
        return asking.criterion(self.relevance)

    @property
    def masking(self) -> Masking:
        """What a pruned unit loses, by whichever name it was asked for."""
        return "row_and_scale" if self.paper_mode else self.mask


@dataclass(frozen=True, kw_only=True)
class Pruner(Settings, base.Pruner):
    """Prunes units by their relevance."""

    says: ClassVar[Mapping[str, Domain]] = {"rows_regrown": domains.SHARE}

    @property
    def heads(self) -> bool:
        """Whether attention heads are units."""
        return self.units == "heads"

    @property
    def keeps_dead_units_at_zero(self) -> bool:
        """Whether local training holds dead units there; the paper's masks do not."""
        return self.masking == "unit"

    def check(self, desk: Desk) -> None:
        """Ask the criterion whether it can score the model's units, and what it explains."""
        self.criterion.check(desk.graph)
        asking.check(self.criterion, desk)

    def due(self, state: ServerState, history: Sequence[RoundReport]) -> bool:
        """Ask the schedule."""
        return self._rate(state) is not None

    def to_come(self, state: ServerState) -> bool:
        """Ask the schedule."""
        return state.round_index < self.schedule.last_round

    def scores(self, desk: Desk, state: ServerState) -> Scores:
        """Explain the model on the reference set."""
        return asking.ask(
            self.criterion,
            self.criterion.score,
            desk,
            replace(state, model=self.explained(desk, state)),
        )

    def explained(self, desk: Desk, state: ServerState) -> StateDict:
        """Explain the model, or under ``regrow`` the model with its dead rows put back."""
        if not self.regrow or state.mask is None:
            return state.model
        support = self.support(desk, state.mask, "slices")
        return {
            name: torch.where(support[name], value, state.memory[name])
            if name in support
            else value
            for name, value in state.model.items()
        }

    def choose(self, desk: Desk, state: ServerState, scores: Scores) -> Mask:
        """Keep the most relevant units (eq. 6-7)."""
        rate = self._rate(state)
        assert rate is not None
        groups = desk.graph.coupled if self.coupled else ()
        mask = keep_highest(
            masks.couple(scores, groups),
            rate,
            scope=self.scope,
            min_keep=self.min_keep,
            alive=None if self.regrow else state.mask,
        )
        return masks.uncouple(mask, groups, scores)

    def pruned(self, desk: Desk, state: ServerState, mask: Mask) -> ServerState:
        """Zero what goes (eq. 8), and under ``regrow`` keep it in the server's memory."""
        model = self.explained(desk, state)
        pruned = super().pruned(desk, replace(state, model=model), mask)
        if not self.regrow:
            return pruned
        others = {name: value for name, value in state.memory.items() if name not in model}
        support = self.support(desk, mask, "slices")
        return replace(pruned, memory=others | {name: model[name] for name in support})

    def support(self, desk: Desk, mask: Mask | None, mode: Mode) -> dict[str, Tensor]:
        """Take along with a unit what the setting ``mask`` says."""
        modes: dict[Masking, Mode] = {"unit": mode, "row": "row", "row_and_scale": "rows"}
        return desk.graph.support(mask, modes[self.masking])

    def trained(self, local: Local) -> dict[str, float]:
        """Mask what was learned (algorithm 1, line 8); a no-op under ``mask: unit``."""
        if local.mask is None or self.keeps_dead_units_at_zero:
            return {}
        trained = local.model.state_dict()
        back = regrown(trained, local.mask, local.desk.graph)
        support = self.support(local.desk, local.mask, "rows")
        local.model.load_state_dict(masks.apply(trained, support))
        return {"rows_regrown": back}

    def _rate(self, state: ServerState) -> float | None:
        return self.schedule.rate_after(state.round_index, rising=not self.regrow)


def regrown(model: StateDict, mask: Mask, graph: UnitGraph) -> float:
    """Measure the share of dead weight rows that are no longer zero, in [0, 1]; 0 without any."""
    back = []
    for layer in graph.layers:
        dead = ~layer.rows(mask.entries[layer.name])
        back.append(model[layer.weight].cpu()[dead].flatten(1).any(1))
    rows = torch.cat(back).double()
    return float(rows.mean()) if len(rows) else 0.0
