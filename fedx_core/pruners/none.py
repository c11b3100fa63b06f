"""Nothing is pruned."""

from dataclasses import dataclass

from fedx_core.pruners import base


@dataclass(frozen=True, kw_only=True)
class Pruner(base.Pruner):
    """Prunes nothing."""
