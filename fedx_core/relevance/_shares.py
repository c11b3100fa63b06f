"""Share the relevance of a layer's output out to its weights.

    R_ij = sum over positions of x_i w_ij R_j / (z_j + epsilon sign z_j)

which is what the epsilon rule sends along one connection, before it adds up what arrives at an
input.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from fedx_core.base.errors import ConfigError
from fedx_core.propagation.explicit import stabilise
from fedx_core.pruning.structure import UnitGraph


@contextmanager
def sharing(
    model: nn.Module, graph: UnitGraph, take: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Hand out the shares of each layer's weights on each backward pass.

    Args:
        model: a copy whose backward pass carries relevance.
        graph: names the layers.
        take: gets the weight's name and, image by image, shares of the weight's shape.
    """

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watched(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x, z = inputs[0].detach(), output.detach()

            def hand_out(relevance: Tensor) -> None:
                for shares in _shares(module, x, relevance / stabilise(z)):
                    take(name, shares)

            output.register_hook(hand_out)

        return watched

    handles = [
        model.get_submodule(layer.name).register_forward_hook(watch(layer.weight))
        for layer in graph.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shares(module: nn.Module, x: Tensor, ratio: Tensor) -> Iterator[Tensor]:
    """Go through images one by one: their shares must not cancel before sizes are taken."""
    weight = module.get_parameter("weight").detach()
    if isinstance(module, nn.Linear):
        for one, part in zip(x, ratio, strict=True):
            yield part.reshape(-1, len(weight)).T @ one.reshape(-1, weight.shape[1]) * weight
    elif isinstance(module, nn.Conv2d) and not isinstance(module.padding, str):
        how = (module.stride, module.padding, module.dilation, module.groups)
        gradient: Any = conv2d_weight  # which has no types
        for n in range(len(x)):
            yield gradient(x[n : n + 1], list(weight.shape), ratio[n : n + 1], *how) * weight
    else:
        raise ConfigError(
            f"relevance can't be shared out to the weights of a {type(module).__name__}; choose "
            "another criterion, such as snip, or a pruner of units"
        )
