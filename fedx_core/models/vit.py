"""Vision transformers, as timm builds them.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929. LRP after
Achtibat et al., AttnLRP, ICML 2024, arXiv 2402.05602.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedx_core.models import _timm, base
from fedx_core.models.base import Variant
from fedx_core.propagation.explicit import (
    Add,
    Attention,
    MatMul,
    Replacement,
    Softmax,
    layer_norm,
)
from fedx_core.pruning.structure import Stream, UnitLayer

if TYPE_CHECKING:
    from fedx_core.pruning.shrink.model import Shrinking


def _tiny(bands: int, classes: int) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=64, patch_size=8, in_chans=bands, num_classes=classes,
        embed_dim=192, depth=6, num_heads=3,
    )  # fmt: skip


_GROUPS = (
    ("patch_embed", *(f"blocks.{i}." for i in range(3))),
    tuple(f"blocks.{i}." for i in range(3, 9)),
    tuple(f"blocks.{i}." for i in range(9, 12)),
)


_TINY_GROUPS = (
    ("patch_embed", "blocks.0.", "blocks.1."),
    ("blocks.2.", "blocks.3."),
    ("blocks.4.", "blocks.5."),
)


@dataclass(frozen=True)
class Architecture(base.Architecture):
    """A transformer over patches.

    LayerNorm reads the residual channels and mixes them, so those keep their place.
    """

    variants: ClassVar[Mapping[str, Variant]] = {
        "vit_tiny": Variant(_tiny, "head", _TINY_GROUPS, input_size=64),
        "vit_base_patch16_224": Variant(
            _timm.built("vit_base_patch16_224"), "head", _GROUPS, input_size=224
        ),
    }

    def layer(
        self,
        name: str,
        module: nn.Conv2d | nn.Linear,
        modules: Mapping[str, nn.Module],
        *,
        heads: bool,
    ) -> UnitLayer:
        """Describe the rows of a layer, or the heads of ``qkv``, measured where ``proj`` reads."""
        if not (heads and name.endswith(".qkv")):
            return super().layer(name, module, modules, heads=heads)
        attention = name.removesuffix(".qkv")
        count = int(modules[attention].num_heads)  # type: ignore[arg-type] # timm's Attention
        rows = module.weight.shape[0]
        width = rows // 3  # queries, keys and values, head by head
        return UnitLayer(
            name=name,
            units=count,
            measured_at=f"{attention}.proj",
            unit_dim=-1,
            scalars=(f"{name}.bias",) if module.bias is not None else (),
            paper_scalar=f"{name}.bias" if module.bias is not None else None,
            row_unit=tuple((row % width) // (width // count) for row in range(rows)),
            measured_input=True,
        )

    def streams(self, modules: Mapping[str, nn.Module], *, heads: bool) -> Sequence[Stream]:
        """Close what is inside each MLP, and each attention's values."""
        streams = _timm.mlp_streams(modules)
        for name, module in modules.items():
            if name.endswith(".qkv") and isinstance(module, nn.Linear):
                width = module.in_features
                projection = name.removesuffix("qkv") + "proj.weight"
                # A value dimension that is always zero is all that its column of proj ever reads.
                # Attention wants equally wide heads, so only whole ones leave their place.
                values = ((name, 2 * width),)
                streams.append(Stream(values, (projection,), width, whole=not heads))
        return streams

    def explicit(self, attention: Attention) -> Sequence[Replacement]:
        """Replace sums, attention and LayerNorm."""
        from timm.models import vision_transformer as vit

        share = 0.5 if attention == "attnlrp" else 0.0
        return [
            (nn.LayerNorm, "forward", layer_norm),
            (vit.Block, "forward", _block),
            (vit.Attention, "forward", partial(_attention, weights_share=share)),  # type: ignore[attr-defined] # timm
            (vit.VisionTransformer, "_pos_embed", _embed_positions),
        ]

    def rules(self) -> Sequence[tuple[tuple[type[nn.Module], ...], Any]]:
        """Pass relevance through GELU."""
        return _timm.activation_rules()

    def join(self, shrinking: "Shrinking") -> None:
        """Tell each attention how many heads are left."""
        for layer in shrinking.graph.layers:
            heads = int(shrinking.mask.entries[layer.name].sum())
            if layer.row_unit is not None and heads:  # without a head attention mixes zeros
                attention: Any = shrinking.small.get_submodule(layer.name.removesuffix(".qkv"))
                attention.num_heads = heads
                attention.attn_dim = heads * attention.head_dim


def _block(self: Any, x: Tensor) -> Tensor:
    attended = Add.apply(x, self.drop_path1(self.ls1(self.attn(self.norm1(x)))))
    total: Tensor = Add.apply(attended, self.drop_path2(self.ls2(self.mlp(self.norm2(attended)))))
    return total


def _attention(self: Any, x: Tensor, *, weights_share: float) -> Tensor:
    batch, tokens, _ = x.shape
    qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = qkv.unbind(0)  # (batch, heads, tokens, width)
    queries, keys = self.q_norm(queries), self.k_norm(keys)
    # Scores and weights are tokens x tokens a head: computed twice rather than kept.
    mixed = checkpoint(
        _mix, queries, keys, values, self.scale, weights_share,
        use_reentrant=False, preserve_rng_state=False,
    )  # fmt: skip
    projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
    return projected


def _mix(queries: Tensor, keys: Tensor, values: Tensor, scale: float, share: float) -> Tensor:
    scores = MatMul.apply(queries, keys.transpose(-2, -1), scale, 0.5)
    mixed: Tensor = MatMul.apply(Softmax.apply(scores), values, 1.0, share)
    return mixed


def _embed_positions(self: Any, x: Tensor) -> Tensor:
    if self.cls_token is not None:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
    embedded: Tensor = Add.apply(x, self.pos_embed.expand_as(x))
    return embedded
