"""Read what flows backwards through the units, reduced where it arises.

A probe is a leaf of zeros whose "gradient" is what its measuring point gets on the backward pass,
summed over positions. So no map is held longer than it takes to sum it; and since nothing in front
of the first probe is a leaf, the backward pass ends there. This takes more thought than asking
autograd for the gradients of recorded activations, which holds a map of every layer to the end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fedx_core.pruning.structure import UnitGraph, UnitLayer

Reduce = Callable[[UnitLayer, Tensor, Tensor], Tensor]
"""(layer, its activation, what arrives there) to what is kept, of any shape."""


@contextmanager
def probing(
    model: nn.Module, graph: UnitGraph, reduce: Reduce, *, copied: bool
) -> Iterator[dict[str, Tensor]]:
    """Put a probe at each of the units' measuring points.

    Args:
        model: a copy that nobody else uses.
        graph: the units.
        reduce: applied on the backward pass, and once to tensors without data for its shape.
        copied: hand a copy on. torchvision's blocks add the skip path in place, which would change
            what is kept; timm's do not, nor do those of
            ``propagation.explicit``.

    Yields:
        A dict that each forward pass fills: layer name to probe.
    """
    probes: dict[str, Tensor] = {}

    @cache
    def shape_kept(name: str, shape: torch.Size) -> torch.Size:
        empty = torch.empty(shape, device="meta")
        return reduce(graph.layer(name), empty, empty).shape

    def probed(layer: UnitLayer, values: Tensor) -> Tensor:
        # Nobody reads it, so one zero stands in for all.
        probe = values.new_zeros(()).expand(shape_kept(layer.name, values.shape)).requires_grad_()
        probes[layer.name] = probe
        result: Tensor = _Probe.apply(values, probe, partial(reduce, layer))
        return result.clone() if copied else result

    handles = []
    try:
        for layer in graph.layers:
            module = model.get_submodule(layer.measured_at)
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, inputs, layer=layer: probed(layer, inputs[0])
                )
                if layer.measured_input
                else module.register_forward_hook(
                    lambda module, inputs, output, layer=layer: probed(layer, output)
                )
            )
        yield probes
    finally:
        for handle in handles:
            handle.remove()


class _Probe(Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, probe: Tensor, reduce: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(values)
        ctx.reduce = reduce
        return values

    @staticmethod
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor, Tensor, None]:
        return arriving, ctx.reduce(*ctx.saved_tensors, arriving), None
