"""What a round's stages know before anything is sent: the model, whose turn it is, what travels."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from fedx_core.messages import Purpose, Schema
from fedx_core.state import StateDict
from fedx_core.structure import UnitGraph


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model's entries without their values.

    Args:
        entries: (dtype, shape) by name, in the state dict's order.
        graph: its units.
        local: entries that stay with the clients (BatchNorm's buffers under ``batch_norm: local``).
    """

    entries: Mapping[str, tuple[str, tuple[int, ...]]]
    graph: UnitGraph
    local: frozenset[str]

    def shared(self, model: Mapping[str, Tensor]) -> StateDict:
        """Return the entries of a state dict that travel."""
        return {name: value for name, value in model.items() if name not in self.local}


def model_info(model: nn.Module, graph: UnitGraph, *, local_batch_norm: bool) -> ModelInfo:
    """Describe a built model."""
    buffers = frozenset(name for name in model.state_dict() if name not in graph.parameters)
    return ModelInfo(
        entries={n: (str(v.dtype), tuple(v.shape)) for n, v in model.state_dict().items()},
        graph=graph,
        local=buffers if local_batch_norm else frozenset(),
    )


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One client's part in a round, as far as the server knows it before anything is sent.

    Args:
        client: its name.
        place: among all clients of the run, from 0.
        round_index: from 1.
        purpose: to train, or to score what that round led to.
        returning: it has kept something for itself when it last counted, and still holds it.
    """

    client: str
    place: int
    round_index: int
    purpose: Purpose
    returning: bool


@dataclass(frozen=True, kw_only=True)
class Wire:
    """What both directions hold."""

    down: Schema
    up: Schema
