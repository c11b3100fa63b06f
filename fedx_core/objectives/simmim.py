"""Patches of an image are hidden, and a single layer guesses their pixels from the features.

A transformer sees a learned token in place of a hidden patch, and one linear layer turns each of
its last tokens into pixels. A convolutional network sees zeros, which are the mean of normalised
pixels, and one 1 x 1 convolution turns each position of its last map into the pixels under it.

Source: Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022,
https://arxiv.org/abs/2111.09886.
Differs from the paper: patches are of 8 pixels, since images are small; convolutional networks are
shown zeros in the image, where the paper has Swin.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base import limits
from fedx_core.objectives import _masked, _views, base
from fedx_core.objectives._transformer import is_transformer, patch_of, tokens
from fedx_core.objectives.base import Seen, Task


class Decoder(nn.Module):
    """Features to pixels, and what a transformer sees of a hidden patch."""

    def __init__(self, width: int, patch: int, bands: int, *, transformer: bool) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(width, patch * patch * bands, 1)
        self.patch = patch
        if transformer:
            self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, rows, columns) to (n, bands, rows * patch, columns * patch)."""
        return functional.pixel_shuffle(self.pixels(features), self.patch)


@dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """SimMIM: guess hidden pixels, their absolute error.

    Args:
        hidden: share of the patches that are hidden, in (0, 1).
        patch: side of a patch in pixels; of a transformer, its own.
    """

    least_side: ClassVar[int] = 16
    reads: ClassVar[tuple[str, ...]] = ("decoder.pixels.weight",)

    hidden: float = 0.6
    patch: int = 8

    def __post_init__(self) -> None:
        limits.within("(0, 1)", hidden=self.hidden)
        limits.at_least(2, patch=self.patch)
        limits.at_most(64, patch=self.patch)

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Put a decoder of one layer beside the encoder."""
        base.headless(model, classifier)
        transformer = is_transformer(model)
        bands = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        if transformer:
            width, patch = int(model.embed_dim), patch_of(model)  # type: ignore[arg-type] # timm
        else:
            width, patch = _masked.geometry(model, bands)
        model.decoder = Decoder(width, patch, bands, transformer=transformer)
        return model

    def views(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor | None,
        task: Task,
        random: np.random.Generator,
    ) -> Seen:
        """Cut, mirror and turn; then hide patches: bool (n, rows, columns), and their pixels."""
        whole = _views.placed(inputs, random)
        patch = self._patch(network)
        rows, columns = (-(-side // patch) for side in whole.shape[2:])
        drawn = _masked.draw(len(whole), rows * columns, self.hidden, random)
        hidden = torch.from_numpy(drawn.reshape(-1, rows, columns)).to(whole.device)
        where = _masked.spread(hidden, patch, *whole.shape[2:])
        return Seen((whole, hidden, where), targets)

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Guess all pixels from what is not hidden, (n, bands, height, width)."""
        height, width = seen.views[0].shape[2:]
        guessed: Tensor = network.get_submodule("decoder")(_features(network, seen))
        return (guessed[:, :, :height, :width],)

    def vectors(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Compare by the mean token, or the mean of the last map, of whole images."""
        return _masked.pooled(network, inputs)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare the mean feature of what is not hidden with that of the whole image."""
        shown = ~seen.views[1][:, None]
        features = _features(network, seen)
        if is_transformer(network):
            return (((features * shown).sum((2, 3)) / shown.sum((2, 3)), seen.views[0]),)
        return ((features.mean((2, 3)), seen.views[0]),)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Return the mean absolute error of hidden pixels."""
        whole, _, where = seen.views
        return error(outputs[0].float(), whole, where)

    def _patch(self, network: nn.Module) -> int:
        return patch_of(network) if is_transformer(network) else self.patch


def _features(network: nn.Module, seen: Seen) -> Tensor:
    """Return what is made of an image whose patches are hidden, (n, width, rows, columns)."""
    whole, hidden, where = seen.views
    if not is_transformer(network):
        return _masked.feature_map(network, whole * ~where)
    decoder: Any = network.get_submodule("decoder")
    found = tokens(network, whole, covered=(hidden.flatten(1), decoder.token))[:, 1:]
    return found.transpose(1, 2).reshape(len(found), -1, *hidden.shape[1:])


def error(guessed: Tensor, whole: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean of |guessed - whole| over hidden pixels, all bands.

    Args:
        guessed: (n, bands, height, width).
        whole: likewise.
        hidden: bool (n, 1, height, width).
    """
    apart = (guessed - whole).abs() * hidden
    return apart.sum() / (hidden.sum() * whole.shape[1])
