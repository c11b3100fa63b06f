"""What the objectives share that guess hidden parts of an image: patches, and which are hidden."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.objectives._transformer import is_transformer, tokens


def draw(count: int, patches: int, share: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Hide the same number of patches in each image, at least one and not all.

    Returns:
        bool (count, patches), True = hidden.
    """
    hides = min(max(round(share * patches), 1), patches - 1)
    order = random.random((count, patches)).argsort(1)
    hidden = np.zeros((count, patches), bool)
    np.put_along_axis(hidden, order[:, :hides], True, 1)
    return hidden


def spread(hidden: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Spread bool (n, rows, columns) of patches to pixels, (n, 1, height, width)."""
    pixels = hidden.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return pixels[:, None, :height, :width]


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Lay patches out row by row: (n, bands, height, width) to (n, patches, bands * patch**2).

    Sides are whole numbers of patches.
    """
    return functional.unfold(images, patch, stride=patch).transpose(1, 2)


def normalised(patches: Tensor) -> Tensor:
    """Bring the values of each patch to mean 0 and deviation 1, (n, patches, values)."""
    mean, variance = patches.mean(2, keepdim=True), patches.var(2, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def feature_map(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return a convolutional network's last map, (n, channels, rows, columns), before pooling."""
    whole = getattr(network, "forward_features", None)  # timm's
    if whole is not None:
        found: Tensor = whole(inputs)
        return found
    for name, child in network.named_children():  # torchvision's, in their order
        if name == "avgpool":
            break
        inputs = child(inputs)
    return inputs


def pooled(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the mean of an image's last tokens, or of its last map, (n, width)."""
    if is_transformer(network):
        return tokens(network, inputs)[:, 1:].mean(1)
    return feature_map(network, inputs).mean((2, 3))


def geometry(network: nn.Module, bands: int) -> tuple[int, int]:
    """Measure a convolutional network's last map: (channels, pixels of the image to one of it)."""
    side = 64
    training = network.training
    network.eval()
    with torch.no_grad():
        found = feature_map(network, torch.zeros(1, bands, side, side))
    network.train(training)
    return found.shape[1], side // found.shape[2]
