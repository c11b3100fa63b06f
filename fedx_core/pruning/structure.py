"""The units of a model: which entries a unit owns, and who reads it.

A unit is an out-channel of a convolution, an out-neuron of a linear layer, or an attention head.
Pruning one is described by its *support*: for each state entry that loses values, a bool tensor
that broadcasts to the entry's shape and is True where the value is kept. How much a unit takes with
it is a mode:

    row     its weight row alone
    rows    its weight row and one scalar (BatchNorm scale, or else its own bias): the paper's count
    units   all it owns: row, bias, BatchNorm scale, shift and running statistics, GRN scale, shift
    slices  the same, and the weights that read nothing but dead units

In the modes ``units`` and ``slices`` a dead unit's output is exactly zero. Channels that LayerNorm
reads keep their place, and only what their units own goes. What ``slices`` keeps makes a smaller
model of the same function is made of; see ``shrink``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from fedx_core.base.errors import MaskError
from fedx_core.pruning.masks import Mask

Mode = Literal["row", "rows", "units", "slices"]


@dataclass(frozen=True)
class UnitLayer:
    """The units of one weight.

    Args:
        name: module that owns the weight.
        units: how many units it has.
        measured_at: module whose output carries the units' activations, after BatchNorm.
        unit_dim: dimension of that output that counts units; for heads, channels.
        scalars: entries with one value a row that go with it, parameters and buffers.
        paper_scalar: the one of them that the paper's cost table counts.
        row_unit: unit of each weight row, int64 (rows,); None where rows are units.
        measured_input: read the activation at the module's input instead (heads).
    """

    name: str
    units: int
    measured_at: str
    unit_dim: int
    scalars: tuple[str, ...] = ()
    paper_scalar: str | None = None
    row_unit: tuple[int, ...] | None = None
    measured_input: bool = False

    @property
    def weight(self) -> str:
        """Name of the weight entry, (rows, ...)."""
        return f"{self.name}.weight"

    def rows(self, kept: Tensor) -> Tensor:
        """Spread a mask over units to the weight's rows."""
        return kept if self.row_unit is None else kept[torch.tensor(self.row_unit)]


@dataclass(frozen=True)
class Stream:
    """Channels that several layers write and several weights read in their second dimension.

    Args:
        writers: for each writer its layer and its first row; channel ``c`` is row ``first + c``.
        readers: weights (out, channels, ...) that see nothing but these channels.
        channels: how many there are.
        whole: dead channels keep their place among the others, as zeros.
    """

    writers: tuple[tuple[str, int], ...]
    readers: tuple[str, ...]
    channels: int
    whole: bool = False


@dataclass(frozen=True)
class Cut:
    """What is kept of one entry along its first two dimensions.

    Args:
        rows: bool (rows,), True = kept; None keeps all.
        columns: bool (columns,), likewise.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None

    def support(self, dimensions: int) -> Tensor:
        """Return the same as a bool tensor that broadcasts to an entry of so many dimensions."""
        kept = torch.ones(1, dtype=torch.bool) if self.rows is None else self.rows
        kept = kept.reshape(-1, *[1] * (dimensions - 1))
        if self.columns is None:
            return kept
        return kept & self.columns.reshape(1, -1, *[1] * (dimensions - 2))

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an entry of which ``shape`` is kept."""
        sides = (self.rows, self.columns)
        return (*(n if k is None else len(k) for n, k in zip(shape, sides, strict=False)),
                *shape[2:])  # fmt: skip

    def take(self, value: Tensor) -> Tensor:
        """Return what is kept of an entry."""
        if self.rows is not None:
            value = value[self.rows.to(value.device)]
        return value if self.columns is None else value[:, self.columns.to(value.device)]

    def put_(self, taken: Tensor, whole: Tensor) -> None:
        """Write what :meth:`take` took to its places, in place; its values may come in one row."""
        rows = torch.arange(len(whole)) if self.rows is None else self.rows.nonzero().reshape(-1)
        if self.columns is None:
            whole[rows] = taken.reshape(len(rows), *whole.shape[1:])
        else:
            columns = self.columns.nonzero().reshape(-1)
            sizes = (len(rows), len(columns), *whole.shape[2:])
            whole[rows[:, None], columns] = taken.reshape(sizes)


@dataclass(frozen=True)
class UnitGraph:
    """All unit layers of a model in execution order, and the streams between them."""

    layers: tuple[UnitLayer, ...]
    streams: tuple[Stream, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]

    def layer(self, name: str) -> UnitLayer:
        """Look a layer up by its module's name."""
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def prunable(self) -> int:
        """Parameters that would go if every unit went, in mode ``rows``."""
        return sum(layer.units * self.paper_scalars(layer) for layer in self.layers)

    def paper_scalars(self, layer: UnitLayer) -> int:
        """Scalars that one unit of a layer takes with it by the paper's count (n_l + e_l)."""
        shape = self.shapes[layer.weight]
        rows_per_unit = shape[0] // layer.units
        per_row = int(torch.Size(shape[1:]).numel()) + (1 if layer.paper_scalar else 0)
        return rows_per_unit * per_row

    def check(self, mask: Mask) -> None:
        """Check that a unit mask names this model's layers with their sizes.

        Raises:
            MaskError: it does not; the first difference is named.
        """
        wanted = {layer.name: (layer.units,) for layer in self.layers}
        found = {name: tuple(kept.shape) for name, kept in mask.entries.items()}
        if mask.kind != "units" or wanted != found:
            wrong = sorted(set(wanted.items()) ^ set(found.items()))
            raise MaskError(
                f"the mask does not fit this model: {wrong[0] if wrong else mask.kind}; "
                "it was made for another architecture or other units: take the model of its run"
            )

    def support(self, mask: Mask | None, mode: Mode) -> dict[str, Tensor]:
        """Spread a mask to the state entries that lose values; entries kept whole are left out.

        Args:
            mask: over units or parameters; None keeps everything.
            mode: how much a unit takes with it.

        Returns:
            bool tensors that broadcast to the entries' shapes, True = kept.
        """
        if mask is None:
            return {}
        if mask.kind == "parameters":
            return {name: kept for name, kept in mask.entries.items() if not bool(kept.all())}
        return {
            name: cut.support(len(self.shapes[name])) for name, cut in self.cuts(mask, mode).items()
        }

    @property
    def coupled(self) -> tuple[tuple[str, ...], ...]:
        """Name the layers that write the same residual channels, group by group.

        Only channels that can go are coupled, so models whose residual stream is read by LayerNorm
        have no groups.
        """
        groups: dict[str, tuple[str, ...]] = {}
        for stream in self.streams:
            names = tuple(name for name, _ in stream.writers)
            if len(names) > 1:  # later readers see more writers
                groups[names[0]] = names
        return tuple(groups.values())

    def cuts(self, mask: Mask, mode: Mode) -> dict[str, Cut]:
        """Spread a unit mask to rows and columns; entries kept whole are left out.

        Args:
            mask: over units.
            mode: how much a unit takes with it.
        """
        self.check(mask)
        cuts: dict[str, Cut] = {}
        for layer in self.layers:
            rows = layer.rows(mask.entries[layer.name])
            if bool(rows.all()):
                continue
            paper = (layer.paper_scalar,) if layer.paper_scalar and mode == "rows" else ()
            owned = paper if mode in ("row", "rows") else layer.scalars
            for entry in (layer.weight, *owned):
                cuts[entry] = Cut(rows)
        if mode == "slices":
            for stream in self.streams:
                alive = self.alive(stream, mask)
                if not bool(alive.all()):
                    for weight in stream.readers:
                        cuts[weight] = Cut(cuts[weight].rows if weight in cuts else None, alive)
        return cuts

    def alive(self, stream: Stream, mask: Mask) -> Tensor:
        """Tell which channels of a stream have a writer left, bool (channels,)."""
        alive = torch.zeros(stream.channels, dtype=torch.bool)
        for name, first in stream.writers:
            rows = self.layer(name).rows(mask.entries[name])
            alive |= rows[first : first + stream.channels]
        return alive


def rows_of(name: str, module: nn.Conv2d | nn.Linear, *, norm: str | None) -> UnitLayer:
    """Describe the rows of a convolution or linear layer as units.

    Args:
        name: of the layer.
        module: the layer.
        norm: name of the BatchNorm behind it, if there is one: it goes with the units, and their
            activations are measured behind it.
    """
    bias = [f"{name}.bias"] if module.bias is not None else []
    scalars = ("weight", "bias", "running_mean", "running_var") if norm else ()
    return UnitLayer(
        name=name,
        units=module.weight.shape[0],
        measured_at=norm or name,
        unit_dim=1 if isinstance(module, nn.Conv2d) else -1,
        scalars=(*bias, *(f"{norm}.{scalar}" for scalar in scalars)),
        paper_scalar=f"{norm}.weight" if norm else next(iter(bias), None),
    )


def batch_norm_of(name: str, modules: Mapping[str, nn.Module]) -> str | None:
    """Name the BatchNorm behind a convolution: ``bn1`` behind ``conv1``, ``1`` behind ``0``."""
    parent, _, leaf = name.rpartition(".")
    sibling = str(int(leaf) + 1) if leaf.isdigit() else leaf.replace("conv", "bn")
    candidate = f"{parent}.{sibling}" if parent else sibling
    return candidate if isinstance(modules.get(candidate), nn.BatchNorm2d) else None


def with_heads(
    graph: UnitGraph,
    network: nn.Module,
    classifier: str,
    reads: Sequence[str],
    also: Mapping[str, str],
) -> UnitGraph:
    """Describe a network whose classifier has made way for heads, none of which is pruned.

    Args:
        graph: of the model with its classifier.
        network: the model with heads.
        classifier: weight that read the features.
        reads: weights of heads that read them now, in their second dimension.
        also: weights of heads that read, likewise, what a weight of the model reads.
    """

    def readers(old: str) -> Sequence[str]:
        if old == classifier:
            return reads
        return (old, *(head for head, beside in also.items() if beside == old))

    streams = (
        replace(stream, readers=tuple(new for old in stream.readers for new in readers(old)))
        for stream in graph.streams
    )
    return replace(
        graph,
        streams=tuple(streams),
        shapes={name: tuple(value.shape) for name, value in network.state_dict().items()},
        parameters=frozenset(name for name, _ in network.named_parameters()),
    )
