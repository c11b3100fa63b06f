"""ConvNeXt V2, as timm builds it, with a quicker global response normalisation.

Norms over height and width are taken as roots of sums of squares, and scale and shift go over the
map once. torch's own norm over these dimensions takes ten times as long or more on a CPU, and
timm's four steps read and write the map four times.

Source: Woo et al., ConvNeXt V2, CVPR 2023, arXiv 2301.00808, section 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedx_core.models import _timm, base
from fedx_core.models.base import Variant
from fedx_core.propagation.explicit import Add, Attention, Replacement, layer_norm
from fedx_core.pruning.shrink.layers import route, taken
from fedx_core.pruning.structure import Cut, Stream, UnitGraph, UnitLayer

_GROUPS = (("stem", "stages.0"), ("stages.1", "stages.2"), ("stages.3",))


@dataclass(frozen=True)
class Architecture(base.Architecture):
    """Blocks of a depthwise convolution and an MLP with a GRN inside.

    LayerNorm reads the residual channels and mixes them, so those keep their place.
    """

    variants: ClassVar[Mapping[str, Variant]] = {
        "convnextv2_atto": Variant(_timm.built("convnextv2_atto"), "head.fc", _GROUPS),
        "convnextv2_nano": Variant(_timm.built("convnextv2_nano"), "head.fc", _GROUPS),
    }
    explained_in_float64 = True

    def layer(
        self,
        name: str,
        module: nn.Conv2d | nn.Linear,
        modules: Mapping[str, nn.Module],
        *,
        heads: bool,
    ) -> UnitLayer:
        """Describe the rows of a layer; those of an MLP's first own the GRN behind it."""
        layer = super().layer(name, module, modules, heads=heads)
        norm = f"{name.removesuffix('.fc1')}.grn"
        if not name.endswith(".mlp.fc1") or not _is_grn(modules.get(norm)):
            return layer
        return replace(layer, scalars=(*layer.scalars, f"{norm}.weight", f"{norm}.bias"))

    def streams(self, modules: Mapping[str, nn.Module], *, heads: bool) -> Sequence[Stream]:
        """Close what is inside each MLP."""
        return _timm.mlp_streams(modules)

    def explicit(self, attention: Attention) -> Sequence[Replacement]:
        """Replace LayerNorm and the sums at the ends of blocks."""
        from timm.layers.norm import LayerNorm2d
        from timm.models.convnext import ConvNeXtBlock

        return [
            (LayerNorm2d, "forward", _layer_norm_of_maps),
            (nn.LayerNorm, "forward", layer_norm),
            (ConvNeXtBlock, "forward", _block),
        ]

    def rules(self) -> Sequence[tuple[tuple[type[nn.Module], ...], Any]]:
        """Pass relevance through GELU, and leave GRN's shift what it gave.

        GRN scales each channel by its norm and shifts it; with the norm held constant it works
        element by element.
        """
        from timm.layers.grn import GlobalResponseNorm as Dense

        from fedx_core.propagation.rules import Shifted

        return [*_timm.activation_rules(), ((Dense,), Shifted())]

    def quicken(self, twin: nn.Module, graph: UnitGraph, *, rounding: bool) -> None:
        """Compute GRNs in fewer steps, which on a CPU costs a third less and rounds otherwise."""
        for module in twin.modules() if rounding else ():
            if _is_grn(module):
                vars(module)["forward"] = partial(_respond, module)

    def small_norm(self, dense: nn.Module, rows: Tensor, leaving: Tensor) -> nn.Module:
        """Build a GRN of alive channels."""
        assert _is_grn(dense), f"no small {type(dense).__name__}"
        return GlobalResponseNorm(dense, rows, leaving)


def _is_grn(module: nn.Module | None) -> bool:
    """Tell timm's GRN from what stands in its place in ConvNeXt's first version."""
    return type(module).__name__ == "GlobalResponseNorm"


class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2's norm over alive channels, with the divisor of all of them.

    Args:
        dense: timm's layer; its values are taken over.
        rows: alive channels, bool (channels,).
        leaving: channels that the small model's tensors have behind it, bool (channels,).
    """

    def __init__(self, dense: Any, rows: Tensor, leaving: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = taken(dense, Cut(rows))
        self.eps, self.channels = dense.eps, len(rows)
        self.spatial_dim, self.channel_dim = dense.spatial_dim, dense.channel_dim
        self.shape = tuple(len(self.weight) if n == -1 else n for n in dense.wb_shape)
        self.places = route(rows, leaving, int(dense.channel_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map images with channels last (or first, as the dense layer does) likewise."""
        assert self.bias is not None
        placed: Tensor = self.places(
            respond(
                x,
                self.weight.view(self.shape),
                self.bias.view(self.shape),
                eps=self.eps,
                spatial_dim=self.spatial_dim,
                channel_dim=self.channel_dim,
                channels=self.channels,
            )
        )
        return placed


def respond(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    spatial_dim: tuple[int, int],
    channel_dim: int,
    channels: int,
) -> Tensor:
    """Normalise the channels of maps by how strongly each responds beside the others.

    Args:
        x: float (batch, ...), height and width at ``spatial_dim``, channels at ``channel_dim``.
        weight: that broadcasts over ``x``.
        bias: that broadcasts over ``x``.
        eps: added to the mean of the norms.
        spatial_dim: of height and width.
        channel_dim: of the channels.
        channels: that the mean is over: all, where ``x`` lacks those that are zero.

    Returns:
        x + weight x n + bias, where n is each channel's norm divided by the mean of the norms.
        The gradient of a channel that is zero throughout is finite.
    """
    squares = x.square().sum(spatial_dim, keepdim=True)
    # A root has no slope at zero; the least number above it does not show in the sum below.
    norms = squares.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    mean = norms.sum(channel_dim, keepdim=True) / channels
    return torch.addcmul(bias, x, 1 + weight * (norms / (mean + eps)))


def _respond(norm: Any, x: Tensor) -> Tensor:
    return respond(
        x,
        norm.weight.view(norm.wb_shape),
        norm.bias.view(norm.wb_shape),
        eps=norm.eps,
        spatial_dim=norm.spatial_dim,
        channel_dim=norm.channel_dim,
        channels=len(norm.weight),
    )


def _layer_norm_of_maps(self: Any, x: Tensor) -> Tensor:
    return layer_norm(self, x.movedim(1, -1)).movedim(-1, 1)


def _block(self: Any, x: Tensor) -> Tensor:
    y = self.conv_dw(x)
    if self.use_conv_mlp:
        y = self.mlp(self.norm(y))
    else:
        y = self.mlp(self.norm(y.movedim(1, -1))).movedim(-1, 1)
    total: Tensor = Add.apply(self.drop_path(y), self.shortcut(x))
    return total
