"""The mean of what clients learned is the next model, as in federated averaging."""

from dataclasses import dataclass

from fedx_core.server_steps import base


@dataclass(frozen=True, kw_only=True)
class ServerStep(base.ServerStep):
    """Takes the mean as it is."""
