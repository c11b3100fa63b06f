"""The operations inside a block, with LRP as their backward pass.

LRP sends relevance where autograd would send gradients. What torchvision and timm write inside a
``forward`` (a sum, an attention) is replaced on a copy of the model by functions whose ``backward``
takes the relevance of the output and returns the relevance of each input.

Source: Achtibat et al., AttnLRP, ICML 2024, arXiv 2402.05602; Ali et al., XAI for Transformers,
ICML 2022, arXiv 2202.07304 (LayerNorm, and attention weights as constants).
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

Attention = Literal["attnlrp", "cp"]
STABILISER = 1e-6


def rewrite(model: nn.Module, family: str, attention: Attention) -> None:
    """Replace, in place, what autograd would differentiate and LRP must not.

    Args:
        model: a copy that nobody else uses.
        family: ``resnet`` is torchvision's; ``convnext`` and ``vit`` are timm's.
        attention: ``attnlrp`` shares relevance between the attention weights and what they weigh;
            ``cp`` holds the weights constant, so queries and keys get none.
    """
    for module in model.modules():
        for kind, name, method in _methods(family, attention):
            if isinstance(module, kind):
                vars(module)[name] = MethodType(method, module)
                break


def _methods(
    family: str, attention: Attention
) -> list[tuple[type[nn.Module], str, Callable[..., Tensor]]]:
    """List whose methods are replaced, and by what."""
    if family == "resnet":
        from torchvision.models.resnet import BasicBlock, Bottleneck

        return [
            (BasicBlock, "forward", _basic_block),
            (Bottleneck, "forward", _bottleneck),
        ]
    from timm.layers.norm import LayerNorm2d
    from timm.models import vision_transformer as vit
    from timm.models.convnext import ConvNeXtBlock

    share = 0.5 if attention == "attnlrp" else 0.0
    return [
        (LayerNorm2d, "forward", _layer_norm_of_maps),
        (nn.LayerNorm, "forward", _layer_norm),
        (ConvNeXtBlock, "forward", _convnext_block),
        (vit.Block, "forward", _vit_block),
        (vit.Attention, "forward", partial(_attention, weights_share=share)),  # type: ignore[attr-defined] # timm
        (vit.VisionTransformer, "_pos_embed", _embed_positions),
    ]


class Add(Function):
    """A sum; each summand takes the share that it contributed."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        """Add tensors of one shape."""
        ctx.save_for_backward(left, right)
        return left + right

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """R_a = a R / (a + b)."""
        left, right = ctx.saved_tensors
        ratio = relevance / stabilise(left + right)
        return left * ratio, right * ratio


class MatMul(Function):
    """``left @ right * scale``; the operands share the relevance."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: float, share: float) -> Tensor:
        """Multiply; ``share`` of the relevance will go to ``left``, the rest to ``right``."""
        product = left @ right * scale
        ctx.save_for_backward(left, right, product)
        ctx.scale, ctx.share = scale, share
        return product

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """R_L = share L * ((R / O) Rᵀ), likewise for the other."""
        left, right, product = ctx.saved_tensors
        ratio = relevance / stabilise(product) * ctx.scale
        to_left = ctx.share * left * (ratio @ right.transpose(-2, -1))
        to_right = (1 - ctx.share) * right * (left.transpose(-2, -1) @ ratio)
        return to_left, to_right, None, None


class Softmax(Function):
    """Softmax over the last dimension, expanded to first order.

    It does not conserve relevance: the expansion's constant term keeps the difference.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        """Normalise."""
        weights = scores.softmax(-1)
        ctx.save_for_backward(scores, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Tensor:
        """R_S = S (R_A - A sum R_A)."""
        scores, weights = ctx.saved_tensors
        result: Tensor = scores * (relevance - weights * relevance.sum(-1, keepdim=True))
        return result


class LayerNorm(Function):
    """LayerNorm over the last dimension, linear in its input: the deviation counts as constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Normalise, scale and shift."""
        deviation = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        output = (x - x.mean(-1, keepdim=True)) / deviation * weight + bias
        ctx.save_for_backward(x, weight, deviation, output)
        return output

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None, None]:
        """R_i = x_i sum_j d y_j / d x_i R_j / y_j, the epsilon rule."""
        x, weight, deviation, output = ctx.saved_tensors
        ratio = relevance / stabilise(output) * weight / deviation
        return x * (ratio - ratio.mean(-1, keepdim=True)), None, None, None


def stabilise(values: Tensor, epsilon: float = STABILISER) -> Tensor:
    """Move values away from zero, zero itself by its sign bit.

    A sum is -0 only where each of its terms is a zero, so none of them takes a share of anything.
    """
    # A tenth of the time that choosing between two numbers takes.
    return torch.copysign(values.new_tensor(epsilon), values).add_(values)


def _basic_block(self: Any, x: Tensor) -> Tensor:
    y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    shortcut = x if self.downsample is None else self.downsample(x)
    total: Tensor = self.relu(Add.apply(shortcut, y))
    return total


def _bottleneck(self: Any, x: Tensor) -> Tensor:
    y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
    shortcut = x if self.downsample is None else self.downsample(x)
    total: Tensor = self.relu(Add.apply(shortcut, self.bn3(self.conv3(y))))
    return total


def _layer_norm(self: Any, x: Tensor) -> Tensor:
    normed: Tensor = LayerNorm.apply(x, self.weight, self.bias, self.eps)
    return normed


def _layer_norm_of_maps(self: Any, x: Tensor) -> Tensor:
    return _layer_norm(self, x.movedim(1, -1)).movedim(-1, 1)


def _convnext_block(self: Any, x: Tensor) -> Tensor:
    y = self.conv_dw(x)
    if self.use_conv_mlp:
        y = self.mlp(self.norm(y))
    else:
        y = self.mlp(self.norm(y.movedim(1, -1))).movedim(-1, 1)
    total: Tensor = Add.apply(self.drop_path(y), self.shortcut(x))
    return total


def _vit_block(self: Any, x: Tensor) -> Tensor:
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
