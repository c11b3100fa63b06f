"""The operations inside a block, with LRP as their backward pass.

LRP sends relevance where autograd would send gradients. What a model writes inside a ``forward``
(a sum, an attention) is replaced on a copy of it by functions whose ``backward`` takes the
relevance of the output and returns the relevance of each input. Each family of models says where:
:meth:`fedx_core.models.base.Architecture.explicit`.

Source: Achtibat et al., AttnLRP, ICML 2024, arXiv 2402.05602; Ali et al., XAI for Transformers,
ICML 2022, arXiv 2202.07304 (LayerNorm, and attention weights as constants).
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function

Attention = Literal["attnlrp", "cp"]
Replacement = tuple[type[nn.Module], str, Callable[..., Tensor]]
"""A kind of module, the name of one of its methods, and what is called instead, ``self`` first."""

STABILISER = 1e-6


def rewrite(model: nn.Module, replacements: Sequence[Replacement]) -> None:
    """Replace, in place, what autograd would differentiate and LRP must not.

    Args:
        model: a copy that nobody else uses.
        replacements: of each module's method; of several that fit a module the first is taken.
    """
    for module in model.modules():
        for kind, name, method in replacements:
            if isinstance(module, kind):
                vars(module)[name] = MethodType(method, module)
                break


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


def layer_norm(self: Any, x: Tensor) -> Tensor:
    """Replace the ``forward`` of ``nn.LayerNorm``."""
    normed: Tensor = LayerNorm.apply(x, self.weight, self.bias, self.eps)
    return normed
