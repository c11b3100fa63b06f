"""A model without its dead units."""

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from fedx_core.base.errors import MaskError
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.shrink import layers
from fedx_core.pruning.shrink.layers import route
from fedx_core.pruning.structure import Cut, Stream, UnitGraph, UnitLayer


class Family(Protocol):
    """What is asked of a model's family; see :class:`fedx_core.models.base.Architecture`."""

    def small_norm(self, dense: nn.Module, rows: Tensor, leaving: Tensor) -> nn.Module:
        """Build the norm of alive channels."""

    def join(self, shrinking: "Shrinking") -> None:
        """Put right what joins the layers."""


def shrink(model: nn.Module, graph: UnitGraph, mask: Mask, family: Family) -> nn.Module:
    """Build the small model that computes what a model with a mask computes.

    Only a model whose dead units are zero, and stay zero, computes the same without them.

    Args:
        model: dense; it stays as it is, and nothing is shared with it.
        graph: of its units.
        mask: over units.
        family: of the model.

    Returns:
        A module with the names of ``model``'s entries, cut by ``graph.cuts(mask, "slices")``.

    Raises:
        MaskError: the mask is over single parameters, or of another model.
    """
    if mask.kind != "units":
        raise MaskError(
            "a mask of single parameters leaves no unit out, so the model can't shrink; "
            "set training.shrink to false"
        )
    return Shrinking(model, graph, mask).model(family)


class Shrinking:
    """A model on its way to a smaller one.

    Args:
        model: dense.
        graph: of its units.
        mask: over units.
    """

    def __init__(self, model: nn.Module, graph: UnitGraph, mask: Mask) -> None:
        self.dense = model
        self.modules = dict(model.named_modules())
        self.graph, self.mask = graph, mask
        self.cuts = graph.cuts(mask, "slices")
        self.read_from = {reader: stream for stream in graph.streams for reader in stream.readers}
        # What a layer adds to is the first stream that it writes.
        self.written_to = {
            writer: stream
            for stream in reversed(graph.streams)
            for writer, _ in stream.writers
        }  # fmt: skip
        self.small = copy.deepcopy(model)

    def model(self, family: Family) -> nn.Module:
        """Replace layer by layer."""
        norms = {norm: layer.name for layer in self.graph.layers for norm in self.norms(layer)}
        self.normed = set(norms.values())
        for name, module in self.modules.items():
            if isinstance(module, nn.Conv2d | nn.Linear):
                self.replace(name, self.layer(name, module))
            elif name in norms:
                layer = norms[name]
                self.replace(name, family.small_norm(module, self.rows(layer), self.leaving(layer)))
        family.join(self)
        return self.small

    def norms(self, layer: UnitLayer) -> set[str]:
        """Name the norms whose values go with a layer's units, or none."""
        owners = {entry.rpartition(".")[0] for entry in layer.scalars}
        return owners - {layer.name}

    def layer(self, name: str, module: nn.Conv2d | nn.Linear) -> nn.Module:
        """Build a layer of alive rows and columns."""
        kept = self.cuts.get(f"{name}.weight", Cut())
        rows, columns = self.rows(name), self.columns(name)
        # Norms see alive channels only; those are put in their places behind them.
        leaving = rows if name in self.normed else self.leaving(name)
        if isinstance(module, nn.Linear):
            reads, places = route(self.arriving(name), columns, -1), route(rows, leaving, -1)
            return layers.Linear(module, kept, reads, places)
        columns = rows if module.groups > 1 else columns
        reads, places = route(self.arriving(name), columns, 1), route(rows, leaving, 1)
        return layers.Conv2d(module, kept, reads, places)

    def rows(self, name: str) -> Tensor:
        """Tell which rows of a weight are alive."""
        rows = self.cuts.get(f"{name}.weight", Cut()).rows
        return _all(self.graph.shapes[f"{name}.weight"][0]) if rows is None else rows

    def columns(self, name: str) -> Tensor:
        """Tell which columns of a weight are alive."""
        columns = self.cuts.get(f"{name}.weight", Cut()).columns
        return _all(self.graph.shapes[f"{name}.weight"][1]) if columns is None else columns

    def arriving(self, name: str) -> Tensor:
        """Tell which channels the tensor that a layer reads has in the small model."""
        stream = self.read_from.get(f"{name}.weight")
        if stream is not None:
            return self.present(stream)
        module = self.modules[name]
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        return _all(self.graph.shapes[f"{name}.weight"][1] * groups)

    def leaving(self, name: str) -> Tensor:
        """Tell which channels the tensor that a layer writes has in the small model."""
        stream, rows = self.written_to.get(name), self.rows(name)
        if stream is None or stream.whole:
            return _all(len(rows))
        if len(rows) != stream.channels:  # heads: queries and keys go with their values
            return rows if bool(rows.any()) else _all(len(rows))
        return self.present(stream)

    def present(self, stream: Stream) -> Tensor:
        """Tell which channels of a stream have a place; all do where none is alive."""
        alive = self.graph.alive(stream, self.mask)
        return _all(stream.channels) if stream.whole or not bool(alive.any()) else alive

    def replace(self, name: str, module: nn.Module) -> None:
        """Put a module in its place in the small model."""
        parent, _, leaf = name.rpartition(".")
        setattr(self.small.get_submodule(parent), leaf, module)


def _all(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)
