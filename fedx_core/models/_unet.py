"""A decoder on a residual network: a class for each pixel.

The encoder's modules keep their names, so that it takes an encoder's weights and its units are
pruned as ever. The decoder goes back from the last map to the first, stage by stage: what it has is
brought to the size of the stage's map, both are convolved, and the sum is normalised. That is
U-Net's convolution of both laid side by side, in two parts that read one stage's channels each, so
that a part loses what pruned units fed it. The last layer has the classifier's name and place:
nothing prunes it or thins it out.

Source: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI
2015, https://arxiv.org/abs/1505.04597.
Differs from the paper: one convolution a stage, all of one width, and neighbours repeated in place
of transposed convolutions, since models here are sent; logits are brought to the image's size.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.propagation.explicit import Add, Replacement

DECODER = "decoder"


class Level(nn.Module):
    """One step back towards the image."""

    def __init__(self, above: int, beside: int, width: int) -> None:
        super().__init__()
        self.above = nn.Conv2d(above, width, 3, padding=1, bias=False)
        self.beside = nn.Conv2d(beside, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join (n, above, rows, columns) and a stage's (n, beside, height, width)."""
        joined: Tensor = self.relu(self.norm(self.above(_to_size(x, skip)) + self.beside(skip)))
        return joined


class UNet(nn.Module):
    """A residual network whose classifier has made way for a decoder.

    Args:
        encoder: with its weights; its modules are taken over.
        stages: names of its children whose maps are read, the finest first.
        classifier: name of its last layer.
        width: channels of the decoder.
        classes: to tell apart.
    """

    by_image: bool = False
    """Answer for each image with the mean over its pixels of the logit of the class that is said,
    (n, classes): what criteria explain, as they do a class of a whole image."""

    def __init__(
        self, encoder: nn.Module, stages: Sequence[str], classifier: str, width: int, classes: int
    ) -> None:
        super().__init__()
        children = dict(encoder.named_children())
        names = list(children)[: list(children).index(stages[-1]) + 1]
        for name in names:
            self.add_module(name, children[name])
        self.names, self.stages, self.classifier = names, tuple(stages), classifier
        *finer, last = _widths(self)
        above = [last, *[width] * (len(finer) - 1)]
        levels = (Level(a, b, width) for a, b in zip(above, reversed(finer), strict=True))
        self.add_module(DECODER, nn.ModuleList(levels))
        self.add_module(classifier, nn.Conv2d(width, classes, 1))

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the stages' maps, the finest first."""
        x = images
        for name in self.names:
            x = self.get_submodule(name)(x)
            if name in self.stages:
                yield x

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, bands, height, width) to logits (n, classes, height, width)."""
        *finer, x = self.maps(images)
        levels: Any = self.get_submodule(DECODER)
        for level, skip in zip(levels, reversed(finer), strict=True):
            x = level(x, skip)
        logits = functional.interpolate(
            self.get_submodule(self.classifier)(x), images.shape[2:], mode="bilinear"
        )
        return _by_image(logits) if self.by_image else logits


def _level(self: Any, x: Tensor, skip: Tensor) -> Tensor:
    total = Add.apply(self.above(_to_size(x, skip)), self.beside(skip))
    joined: Tensor = self.relu(self.norm(total))
    return joined


EXPLICIT: Sequence[Replacement] = ((Level, "forward", _level),)
"""What LRP replaces in a decoder."""


def _to_size(x: Tensor, like: Tensor) -> Tensor:
    # Each value is one of before: relevance goes back to it whole.
    return functional.interpolate(x, like.shape[2:], mode="nearest")


def _by_image(logits: Tensor) -> Tensor:
    said = torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    return (logits * said).mean((2, 3))


@torch.no_grad()
def _widths(network: UNet) -> list[int]:
    """Measure how many channels the stages' maps have."""
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    network.eval()
    found = [found.shape[1] for found in network.maps(torch.zeros(1, first.in_channels, 64, 64))]
    network.train()
    return found
