"""Most patches of an image are left out, and a small decoder guesses them from the others.

The encoder sees visible patches only, so that a step takes a fraction of the time; the decoder
fills a learned token in for all others.

Source: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022,
https://arxiv.org/abs/2111.06377; patches are guessed with mean 0 and deviation 1 (its table 1d).
Differs from the paper: images are turned and mirrored; the decoder is narrower, and its positions
are learned, since models here are small.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.objectives import _masked, _views, base
from fedx_core.objectives._transformer import is_transformer, patch_of, tokens
from fedx_core.objectives.base import Seen, Task

HEAD = 32
"""Width of a head of the decoder's attention."""


class Decoder(nn.Module):
    """Visible tokens to all patches."""

    def __init__(self, width: int, patches: int, values: int, own: int, depth: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        self.embed = nn.Linear(width, own)
        self.token = nn.Parameter(torch.randn(1, 1, own) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, patches, own) * 0.02)
        self.layers = nn.ModuleList(Block(own, own // HEAD) for _ in range(depth))
        self.norm = nn.LayerNorm(own)
        self.values = nn.Linear(own, values)

    def forward(self, found: Tensor, visible: Tensor) -> Tensor:
        """Map tokens (n, m, width) of patches ``visible`` (n, m) to (n, patches, values)."""
        count, patches = len(found), self.positions.shape[1]
        known = self.embed(found)
        every = self.token.to(known.dtype).expand(count, patches, -1)
        every = every.scatter(1, visible[:, :, None].expand_as(known), known)
        every = every + self.positions
        for layer in self.layers:
            every = layer(every)
        guessed: Tensor = self.values(self.norm(every))
        return guessed


@dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """MAE: guess left-out patches, their squared error; for vision transformers.

    Args:
        hidden: share of the patches that are left out, in (0, 1).
        decoder_width: of the decoder's tokens, a multiple of 32.
        decoder_depth: of its blocks.
    """

    least_side: ClassVar[int] = 16

    hidden: float = 0.75
    decoder_width: int = 96
    decoder_depth: int = 2

    def __post_init__(self) -> None:
        limits.within("(0, 1)", hidden=self.hidden)
        limits.at_least(1, decoder_width=self.decoder_width)
        limits.at_least(1, decoder_depth=self.decoder_depth)
        if self.decoder_width % HEAD:
            raise ConfigError(
                f"decoder_width must be a multiple of {HEAD}, got {self.decoder_width}"
            )

    def check(self, model: nn.Module, family: str) -> None:
        """Refuse what has no patches that could be left out."""
        if not is_transformer(model):
            raise ConfigError(
                f"training.objective mae leaves patches out, which only a vision transformer can; "
                f"the model is of the family {family}. Choose vit_tiny, or the objective simmim"
            )

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Put a decoder beside the encoder."""
        vit: Any = model
        base.headless(model, classifier)
        bands = vit.patch_embed.proj.in_channels
        model.decoder = Decoder(
            int(vit.embed_dim),
            int(vit.patch_embed.num_patches),
            bands * patch_of(model) ** 2,
            self.decoder_width,
            self.decoder_depth,
        )
        return model

    def views(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor | None,
        task: Task,
        random: np.random.Generator,
    ) -> Seen:
        """Cut, mirror and turn; then draw which patches are left out, bool (n, patches)."""
        whole = _views.placed(inputs, random)
        patches = network.get_submodule("patch_embed").num_patches
        hidden = _masked.draw(len(whole), int(patches), self.hidden, random)  # type: ignore[arg-type] # timm
        return Seen((whole, torch.from_numpy(hidden).to(whole.device)), targets)

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Guess all patches from those that are there, (n, patches, values)."""
        whole, hidden = seen.views
        visible = (~hidden).nonzero()[:, 1].reshape(len(whole), -1)
        found = tokens(network, whole, visible=visible)[:, 1:]
        return (network.get_submodule("decoder")(found, visible),)

    def vectors(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Compare by the mean token of whole images."""
        return _masked.pooled(network, inputs)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare the mean visible token with that of the whole image."""
        whole, hidden = seen.views
        visible = (~hidden).nonzero()[:, 1].reshape(len(whole), -1)
        return ((tokens(network, whole, visible=visible)[:, 1:].mean(1), whole),)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Return the mean squared error of the patches that were left out."""
        whole, hidden = seen.views
        guessed = outputs[0].float()
        side = whole.shape[2] // math.isqrt(hidden.shape[1])
        return error(guessed, _masked.normalised(_masked.patches_of(whole, side)), hidden)


def error(guessed: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean of (guessed - patches)**2 over hidden patches.

    Args:
        guessed: (n, patches, values).
        patches: likewise.
        hidden: bool (n, patches).
    """
    apart = (guessed - patches).square().mean(2) * hidden
    return apart.sum() / hidden.sum()
