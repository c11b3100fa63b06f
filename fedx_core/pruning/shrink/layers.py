"""Layers of a small model: the ordinary ones with fewer channels, and routes between them.

Names of parameters and buffers are the ordinary layers', so state dicts differ in shapes only.
Layers may be empty: pruning at one threshold for all layers leaves some without any unit.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.pruning.shrink.values import cut
from fedx_core.pruning.structure import Cut


class Route(nn.Module):
    """Send channels to other places; a place that nobody is sent to is zero.

    Args:
        have: which of the dense model's channels come in, bool (channels,).
        want: which go out.
        dim: of the channels: 1 for images, -1 for tokens.
    """

    def __init__(self, have: Tensor, want: Tensor, dim: int) -> None:
        super().__init__()
        incoming = int(have.sum())
        # A channel that does not come in is taken from one of zeros behind the last.
        sources = torch.where(have, have.cumsum(0) - 1, incoming)[want]
        self.dim = dim
        self.register_buffer("sources", sources, persistent=False)
        matrix = torch.zeros(len(sources), incoming + 1)
        matrix[torch.arange(len(sources)), sources] = 1
        self.register_buffer("matrix", matrix[:, :incoming].clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., channels in, ...) to (..., channels out, ...)."""
        sources, matrix = self.get_buffer("sources"), self.get_buffer("matrix").to(x.dtype)
        # Where channels lie side by side, a CPU multiplies several times faster than it indexes.
        if matrix.numel() and x.device.type == "cpu":
            if self.dim == -1:
                return functional.linear(x, matrix)
            if not x.is_contiguous():
                return functional.conv2d(x, matrix[:, :, None, None])
        padding = (0, 1) if self.dim == -1 else (0, 0, 0, 0, 0, 1)
        return functional.pad(x, padding).index_select(self.dim, sources)


def route(have: Tensor, want: Tensor, dim: int) -> nn.Module:
    """Return a :class:`Route`, or nothing to do where both are equal."""
    return nn.Identity() if torch.equal(have, want) else Route(have, want, dim)


class Conv2d(nn.Module):
    """A convolution of alive channels.

    Args:
        dense: the whole layer; its values are taken over.
        kept: of its weight.
        reads: from the channels that arrive to those that are read.
        places: from the rows to the channels that leave.
    """

    def __init__(self, dense: nn.Conv2d, kept: Cut, reads: nn.Module, places: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = taken(dense, kept)
        self.stride, self.padding, self.dilation = dense.stride, dense.padding, dense.dilation
        self.groups = 1 if dense.groups == 1 else len(self.weight)
        self.reads, self.places = reads, places

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) likewise."""
        x = self.reads(x)
        if self.weight.numel():
            y = self._convolve(x, self.weight, self.bias, self.groups)
        else:  # torch refuses convolutions without outputs and mistakes those without inputs
            one = x.new_zeros(1, 1, *x.shape[2:])
            size = self._convolve(one, one.new_zeros(1, 1, *self.weight.shape[2:]), None, 1)
            # The sum of nothing gives what comes before it gradients of zero instead of none.
            y = x.new_zeros(len(x), len(self.weight), *size.shape[2:]) + x.flatten()[:0].sum()
            y = y if self.bias is None else y + self.bias[:, None, None]
        placed: Tensor = self.places(y)
        return placed

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        stride = self.stride
        # With AVX2 and channels last, oneDNN's gradient of a 1 x 1 convolution that strides over
        # fewer than 8 channels writes beyond its memory. So the stride comes first, by itself.
        if weight.shape[1] < 8 and weight.shape[2:] == (1, 1) and self.padding == (0, 0):
            x, stride = x[..., :: stride[0], :: stride[1]], (1, 1)
        return functional.conv2d(x, weight, bias, stride, self.padding, self.dilation, groups)


class Linear(nn.Module):
    """A linear layer of alive features; arguments as :class:`Conv2d`'s."""

    def __init__(self, dense: nn.Linear, kept: Cut, reads: nn.Module, places: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = taken(dense, kept)
        self.reads, self.places = reads, places

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., features) likewise."""
        placed: Tensor = self.places(functional.linear(self.reads(x), self.weight, self.bias))
        return placed


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm of alive channels, put in their places.

    Args:
        dense: the whole layer; its values are taken over.
        rows: alive channels, bool (channels,).
        places: from those to the channels that leave.
    """

    def __init__(self, dense: nn.BatchNorm2d, rows: Tensor, places: nn.Module) -> None:
        weight = dense.weight
        super().__init__(
            int(rows.sum()), dense.eps, dense.momentum, device=weight.device, dtype=weight.dtype
        )
        self.load_state_dict(
            cut(dense.state_dict(), {name: Cut(rows) for name in _PER_CHANNEL}), strict=True
        )
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) likewise."""
        if self.num_features:
            x = super().forward(x)
        elif self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        placed: Tensor = self.places(x)
        return placed


_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")


def taken(dense: nn.Module, kept: Cut) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Take what is kept of the weight and bias of a layer, as parameters of their own."""
    values = {name: value.detach() for name, value in dense.named_parameters(recurse=False)}
    small = cut(values, {"weight": kept, "bias": Cut(kept.rows)})
    # Nothing is shared with the dense layer, not even what is kept whole.
    own = {name: nn.Parameter(value.clone()) for name, value in small.items()}
    return own["weight"], own.get("bias")
