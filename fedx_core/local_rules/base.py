"""The interface of ``local_rules/<name>.py``: what is added to a client's local steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedx_core.base.state import StateDict
from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local
from fedx_core.learning.training import LocalRule
from fedx_core.objectives.base import Seen


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Adds nothing; a rule overrides :meth:`rule`."""

    remembers: ClassVar[bool] = False
    """True where :meth:`kept` keeps something; refused where clients do not send their models."""

    def check(self, desk: Desk) -> None:
        """Refuse an objective that it can't guide, before a run.

        Raises:
            ConfigError: says what to change.
        """

    def rule(self, local: Local) -> LocalRule | None:
        """Change the local steps of one client in one round; None leaves them as they are."""
        return None

    def kept(self, local: Local) -> StateDict:
        """Say what the client keeps for its next turn, as a section of ``local.memory``."""
        return {}


def combined(*rules: LocalRule | None) -> LocalRule | None:
    """Follow several rules: penalties add up, and all else happens in the rules' order."""
    there = [rule for rule in rules if rule is not None]
    if len(there) < 2:
        return there[0] if there else None
    effective = [rule.effective for rule in there if rule.effective is not None]
    penalties = [rule.penalty for rule in there if rule.penalty is not None]
    of_batch = [rule.penalty_of_batch for rule in there if rule.penalty_of_batch is not None]

    def through(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        for change in effective:
            parameters = change(parameters)
        return parameters

    def penalty(model: nn.Module) -> Tensor:
        return torch.stack([one(model) for one in penalties]).sum()

    def penalty_of_batch(model: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([one(model, seen, outputs) for one in of_batch]).sum()

    return LocalRule(
        effective=through if effective else None,
        penalty=penalty if penalties else None,
        penalty_of_batch=penalty_of_batch if of_batch else None,
        before_step=_each([rule.before_step for rule in there]),
        after_step=_each([rule.after_step for rule in there]),
        at_end=_each([rule.at_end for rule in there]),
    )


def _each(steps: list[Callable[[Any], None] | None]) -> Callable[[Any], None] | None:
    there = [step for step in steps if step is not None]

    def take(what: Any) -> None:
        for step in there:
            step(what)

    return take if there else None
