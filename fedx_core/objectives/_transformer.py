"""timm's vision transformers from inside: all tokens, those of visible patches, or covered ones."""

from typing import Any

import torch
from torch import Tensor, nn


def is_transformer(network: nn.Module) -> bool:
    """Tell whether a network is one of timm's vision transformers."""
    return hasattr(network, "patch_embed") and hasattr(network, "blocks")


def patch_of(network: nn.Module) -> int:
    """Return the side of a patch in pixels."""
    embed: Any = network.patch_embed
    return int(embed.patch_size[0])


def tokens(
    network: nn.Module,
    images: Tensor,
    *,
    covered: tuple[Tensor, Tensor] | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """Return the last tokens, the class token first, (n, 1 + patches, width).

    Args:
        network: with a class token.
        images: (n, bands, height, width), of the network's size.
        covered: bool (n, patches), and the token (1, 1, width) that stands for a covered patch.
        visible: int64 (n, m), the patches that are looked at, others being left out; None for all.
    """
    vit: Any = network
    found = vit.patch_embed(images)
    if covered is not None:
        hidden, token = covered
        found = torch.where(hidden[:, :, None], token.to(found.dtype), found)
    found = found + vit.pos_embed[:, 1:]
    if visible is not None:
        found = found.gather(1, visible[:, :, None].expand(-1, -1, found.shape[2]))
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(found), -1, -1)
    found = vit.norm_pre(vit.pos_drop(torch.cat([first, found], 1)))
    for block in vit.blocks:
        found = block(found)
    last: Tensor = vit.norm(found)
    return last
