"""Views of images that look straight down, drawn on the host and made where the model is.

Such images have no up, so they are turned by quarters and mirrored both ways; and most have more
bands than three, so hue and saturation mean nothing, and each band has a gain of its own instead.
All draws of a batch come from one generator, in one order: the same on any device. torchvision's
transforms draw from the global generator, and once for a batch.

Sources: Chen et al., SimCLR, ICML 2020, appendix A (crops, contrast, grey, blur); the rest is ours.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedx_core.images.pixels import Pixels

SCALE = (0.3, 1.0)
"""Share of an image's area that a crop keeps."""
LIGHT = 0.4
"""By how much brightness and contrast differ from one, at most."""
GAIN = 0.1
"""By how much a band's gain differs from one, at most."""
GREY = 0.2
"""How often three bands become their luminance."""
BLUR = 0.5
"""How often an image of 64 pixels or more is blurred."""
SIGMA = (0.1, 2.0)
"""Pixels that a blur is wide."""
LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def placed(inputs: Tensor, random: np.random.Generator) -> Tensor:
    """Cut a square out of each image, mirror and turn it, and bring it to the image's size.

    Args:
        inputs: float32 (n, bands, height, width).
        random: of a crop's share of the area and its place, two mirrors, and a quarter turn.
    """
    maps = torch.from_numpy(_maps(len(inputs), random)).to(inputs)
    grid = functional.affine_grid(maps, list(inputs.shape), align_corners=False)
    found: Tensor = functional.grid_sample(
        inputs, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return found


def _maps(count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Draw where each image looks, float64 (n, 2, 3): from [-1, 1] squared to [-1, 1] squared."""
    side = np.sqrt(random.uniform(*SCALE, count))
    centre = random.uniform(-1, 1, (count, 2)) * (1 - side)[:, None]
    mirrors = random.choice([-1.0, 1.0], (count, 2))
    turns = random.integers(0, 4, count) * (math.pi / 2)
    cosine, sine = np.round(np.cos(turns)), np.round(np.sin(turns))
    turned = np.stack([cosine, -sine, sine, cosine], 1).reshape(count, 2, 2)
    maps = turned * mirrors[:, None, :] * side[:, None, None]
    return np.concatenate([maps, centre[:, :, None]], 2)


def tinted(inputs: Tensor, pixels: Pixels, random: np.random.Generator) -> Tensor:
    """Change brightness, contrast and each band's gain; some images lose colour, or are blurred.

    Args:
        inputs: float32 (n, bands, height, width), normalised as ``pixels`` says.
        pixels: so that light is changed as light, where 0 is dark.
        random: of all draws.
    """
    count, bands, side = inputs.shape[0], inputs.shape[1], min(inputs.shape[2:])
    light, contrast = random.uniform(1 - LIGHT, 1 + LIGHT, (2, count, 1))
    gain = random.uniform(1 - GAIN, 1 + GAIN, (count, bands)) * light
    grey, blurred = random.random(count) < GREY, random.random(count) < BLUR
    sigmas = random.uniform(*SIGMA, count)

    mean, std = (_each(np.array(part)[None], inputs) for part in (pixels.mean, pixels.std))
    image = (inputs * std).add_(mean).mul_(_each(gain, inputs))
    middle = image.mean((2, 3), keepdim=True)
    image.sub_(middle).mul_(_each(contrast, inputs)).add_(middle)
    if bands == 3:
        luminance = _each(np.array(LUMINANCE)[None], inputs)
        _change(image, grey, lambda some: (some * luminance).sum(1, keepdim=True))
    if side >= 64:
        kernels = torch.from_numpy(_kernels(sigmas[blurred], side // 10 | 1)).to(inputs)
        _change(image, blurred, lambda some: _blurred(some, kernels))
    return image.sub_(mean).div_(std)


def _change(images: Tensor, which: NDArray[np.bool_], how: Callable[[Tensor], Tensor]) -> None:
    """Put something else in some images' place; the others cost nothing."""
    at = torch.from_numpy(np.flatnonzero(which)).to(images.device)
    if len(at):
        images[at] = how(images[at])


def _each(values: NDArray[np.generic], like: Tensor) -> Tensor:
    """Lay (n or 1, bands or 1) out beside images."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like)[:, :, None, None]


def _kernels(sigmas: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return a Gaussian for each image, (n, size), each of sum one."""
    at = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (at / sigmas[:, None]) ** 2)
    kernels: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return kernels


def _blurred(images: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image with its own kernel, along rows and then along columns."""
    count, bands, height, width = images.shape
    size = kernels.shape[1]
    each = kernels.repeat_interleave(bands, 0)
    flat = images.reshape(1, count * bands, height, width)
    for shape, pad in (((-1, 1, 1, size), (size // 2, size // 2, 0, 0)),
                       ((-1, 1, size, 1), (0, 0, size // 2, size // 2))):  # fmt: skip
        padded = functional.pad(flat, pad, mode="reflect")
        flat = functional.conv2d(padded, each.reshape(shape), groups=count * bands)
    return flat.reshape(images.shape)
