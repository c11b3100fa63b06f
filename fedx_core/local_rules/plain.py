"""Local steps follow the loss alone."""

from dataclasses import dataclass

from fedx_core.local_rules import base


@dataclass(frozen=True, kw_only=True)
class Rule(base.Rule):
    """Adds nothing."""
