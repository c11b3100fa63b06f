"""What a method is made of: four parts, each a plug-in that settings may swap."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from fedx_core.base import plugins
from fedx_core.exchanges import model
from fedx_core.exchanges.base import Exchange
from fedx_core.local_rules import plain
from fedx_core.local_rules.base import Rule
from fedx_core.pruners import none
from fedx_core.pruners.base import Pruner
from fedx_core.server_steps import average
from fedx_core.server_steps.base import ServerStep

T = TypeVar("T")

PACKAGES = {
    "local": "local_rules",
    "exchange": "exchanges",
    "server": "server_steps",
    "pruner": "pruners",
}
"""Where the plug-ins of each part are."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a method; those of federated averaging where nothing else is said.

    Args:
        local: what is added to a client's steps.
        exchange: what clients send of their models.
        server: the step from the mean.
        pruner: what the model loses, and when.
    """

    local: Rule = field(default_factory=plain.Rule)
    exchange: Exchange = field(default_factory=model.Exchange)
    server: ServerStep = field(default_factory=average.ServerStep)
    pruner: Pruner = field(default_factory=none.Pruner)


def name_of(plugin: object) -> str:
    """Return the name of a plug-in's file."""
    return type(plugin).__module__.rpartition(".")[2]


def taken(kind: type[T], settings: Any) -> T:
    """Build a part from the fields of the same names of a method's settings."""
    return kind(**{f.name: getattr(settings, f.name) for f in fields(kind)})  # type: ignore[arg-type] # parts are dataclasses


def chosen(blocks: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Build the parts that settings name.

    Args:
        blocks: by part, a plug-in's name with its parameters; None for the method's own.

    Raises:
        ConfigError: no such plug-in, or a parameter is unknown, missing or impossible.
    """
    return {
        part: plugins.build(
            PACKAGES[part], block["name"], {k: v for k, v in block.items() if k != "name"}
        )
        for part, block in blocks.items()
        if block is not None
    }
