"""LRP's rules as hooks of zennit, at about the price of a gradient.

zennit's own hooks run a module again for each way that they modify its weights, and let autograd
differentiate the module besides, only to replace the result. These run it on a detached input, so
that autograd sees one step, and reuse what the forward pass computed. That is harder to read than
zennit's one list of modifiers a rule; the tests hold each against zennit's.

Source: Bach et al., PLoS ONE 2015 (epsilon, alpha-beta); Montavon et al., 2019 (gamma); Andéol et
al., 2021 (gamma for inputs of both signs).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, grad
from torch.nn import functional
from zennit.core import Hook, RemovableHandle, RemovableHandleList

from fedx_core.propagation.explicit import STABILISER, stabilise


class _Step(Function):
    """Hand a module's output on; on the way back call the rule instead of differentiating."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rule = rule
        return output

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        rule, ctx.rule = ctx.rule, None  # so that the module's activations are freed on the way
        return rule(relevance), None, None


@dataclass(eq=False)
class Rule(Hook):  # type: ignore[misc] # zennit has no types
    """What the relevance of a module's output says of its input."""

    def __post_init__(self) -> None:
        super().__init__()

    def relevance(self, module: nn.Module, x: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """Propagate.

        Args:
            module: not to be called: its hooks would be, too.
            x: its input, a leaf.
            z: its output, differentiable with respect to ``x`` and nothing else.
            relevance: of ``z``.

        Returns:
            The relevance of ``x``.
        """
        raise NotImplementedError

    def pre_forward(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        """Cut the graph in front of the module."""
        (self.outside,) = inputs
        return self.outside.detach().requires_grad_(self.outside.requires_grad)

    def post_forward(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Bridge the cut by this rule."""
        rule = partial(self.relevance, module, inputs[0], output)
        bridged: Tensor = _Step.apply(self.outside, output.detach(), rule)
        del self.outside
        return bridged

    def copy(self) -> "Rule":
        """Return a hook for one more module."""
        return replace(self)

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook a module, closer to it than what measures its output."""
        return RemovableHandleList(
            [
                RemovableHandle(self),
                module.register_forward_pre_hook(self.pre_forward),
                module.register_forward_hook(self.post_forward, prepend=True),
            ]
        )


@dataclass(eq=False)
class Pass(Rule):
    """R_i = R_j, for what works element by element."""

    def relevance(self, module: nn.Module, x: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """Return it as it is."""
        return relevance

    def pre_forward(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        """Cut the graph; nothing inside is ever differentiated."""
        (self.outside,) = inputs
        return self.outside.detach()


@dataclass(eq=False)
class Epsilon(Rule):
    """R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign z_j), for anything linear."""

    epsilon: float = STABILISER

    def relevance(self, module: nn.Module, x: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """Differentiate the output that the forward pass left."""
        return _transposed(z, x, relevance / stabilise(z, self.epsilon)).mul_(x)


@dataclass(eq=False)
class Shifted(Rule):
    """R_i = (y_i - b_i) R_i / y_i for y_i = s_i x_i + b_i: what the bias gave, it keeps.

    Passing all of it on to an input near zero, which gave nothing, leaves the next epsilon rule to
    divide it by that input: relevance grows without bound, and rounding decides.
    """

    def relevance(self, module: Any, x: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """Take the bias's share away."""
        bias: Tensor = module.bias.view(module.wb_shape)
        return relevance * (z - bias) / stabilise(z)

    def pre_forward(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        """Cut the graph; nothing inside is ever differentiated."""
        (self.outside,) = inputs
        return self.outside.detach()


@dataclass(eq=False)
class Gamma(Rule):
    """Contributions c_ij = x_i w_ij (and biases) of the output's sign count 1 + gamma times.

    zennit computes positive and negative contributions apart: four modified passes and the plain
    one. Since max(c, 0) = (c + abs(c)) / 2, two are enough for inputs and outputs of any sign:

        R_i = sum_j [(1 + g/2) c_ij + g/2 abs(c_ij) sign z_j] / denominator_j R_j
        denominator_j = (1 + g/2) z_j + g/2 sign z_j sum_i abs(c_ij)

    Where no input is negative and no output with relevance is, as between a ReLU and a ReLU, a
    single pass with w + g max(w, 0) says the same.
    """

    gamma: float

    def relevance(self, module: nn.Module, x: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """Take the single pass where it is exact, else both."""
        # Signs as numbers: bools take several times as long to multiply by or to search.
        sign = z.sign()
        if x.min() >= 0 and sign.clamp(max=0).mul_(relevance).abs_().max() == 0:
            raised = _apply(module, x, self._raise_positive)
            ratio = sign.clamp_(min=0).mul_(relevance).div_(raised + STABILISER)
            return _transposed(raised, x, ratio).mul_(x)
        half, sizes = self.gamma / 2, x.abs()
        absolute = _apply(module, sizes, torch.abs)
        # The denominator has the sign of z, so stabilising it is adding to its absolute value.
        denominator = (half * absolute).add_(z.abs(), alpha=1 + half).add_(STABILISER)
        supported = (relevance / denominator).mul_(sign.abs())
        plain = _transposed(z, x, supported * sign).mul_(x)
        return plain.mul_(1 + half).addcmul_(
            _transposed(absolute, sizes, supported), sizes, value=half
        )

    def _raise_positive(self, value: Tensor) -> Tensor:
        return value.clamp(min=0).mul_(self.gamma).add_(value)


@dataclass(eq=False)
class Signs(Rule):
    """Positive contributions get alpha of the relevance, negative ones give beta back.

    alpha 1 with beta 0 is z-plus. Sums of one sign may vanish beside the other, so they are
    computed apart, and not as differences as in :class:`Gamma`.
    """

    alpha: float
    beta: float

    def relevance(self, module: nn.Module, x: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
        """Leave out what is zero throughout: negative inputs behind a ReLU, beta of z-plus."""
        total = self.alpha * _share_of_sign(module, x, _positive, _negative, relevance)
        if self.beta:
            total -= self.beta * _share_of_sign(module, x, _negative, _positive, relevance)
        return total


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=0)


def _negative(value: Tensor) -> Tensor:
    return value.clamp(max=0)


def _share_of_sign(
    module: nn.Module,
    x: Tensor,
    same: Callable[[Tensor], Tensor],
    opposite: Callable[[Tensor], Tensor],
    relevance: Tensor,
) -> Tensor:
    """Share relevance among the contributions of one sign.

    Args:
        module: a convolution or linear layer.
        x: its input.
        same: picks the weights that make such contributions of positive inputs, and the bias.
        opposite: picks the weights that make them of negative inputs.
        relevance: of the output.
    """
    inputs = [_positive(x)]
    outputs = [_apply(module, inputs[0], same)]
    if x.min() < 0:
        inputs.append(_negative(x))
        outputs.append(_apply(module, inputs[1], opposite, with_bias=False))
    ratio = relevance / stabilise(torch.stack(outputs).sum(0))
    gradients = grad(outputs, inputs, [ratio] * len(outputs))
    return torch.stack([a * g for a, g in zip(inputs, gradients, strict=True)]).sum(0)


def _apply(
    module: Any, x: Tensor, modify: Callable[[Tensor], Tensor], *, with_bias: bool = True
) -> Tensor:
    """Run a convolution or linear layer with other weights, differentiably for ``x``, now a leaf.

    Neither the module nor its hooks are called.
    """
    weight = modify(module.weight)
    bias = modify(module.bias) if with_bias and module.bias is not None else None
    with torch.enable_grad():
        x.requires_grad_()
        if isinstance(module, nn.Linear):
            return functional.linear(x, weight, bias)
        output: Tensor = module._conv_forward(x, weight, bias)
        return output


def _transposed(z: Tensor, x: Tensor, values: Tensor) -> Tensor:
    """Multiply by the transposed matrix of the linear step from ``x`` to ``z``."""
    (product,) = grad(z, x, values)
    return product
