"""Models travel as they are, both ways, but for what a mask leaves out."""

from dataclasses import dataclass

from fedx_core.exchanges import base


@dataclass(frozen=True, kw_only=True)
class Exchange(base.Exchange):
    """Sends the model both ways."""
