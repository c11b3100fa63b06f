"""zennit itself, one list of modified passes a rule, is the slow twin of the quick rules."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from zennit import rules as zennit_rules
from zennit.composites import NameLayerMapComposite
from zennit.layer import Sum
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, BatchNorm

from fedx_core.models import catalogue
from fedx_core.models.base import Architecture
from fedx_core.propagation import rules
from fedx_core.propagation.explicit import rewrite
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import UnitGraph
from fedx_core.relevance import base
from fedx_core.relevance.lrp import Criterion

CLASSES = 4
RULES = {
    "epsilon": (rules.Epsilon(1e-6), zennit_rules.Epsilon(1e-6)),
    "gamma": (rules.Gamma(0.25), zennit_rules.Gamma(0.25)),
    "gamma 0": (rules.Gamma(0.0), zennit_rules.Gamma(0.0)),
    "zplus": (rules.Signs(1, 0), zennit_rules.ZPlus()),
    "alpha2beta1": (rules.Signs(2, 1), zennit_rules.AlphaBeta(2, 1)),
    "norm": (rules.Epsilon(), zennit_rules.Norm()),
    "pass": (rules.Pass(), zennit_rules.Pass()),
}
LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "strided conv": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
    "reflecting conv": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "depthwise conv": lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4),
    "linear": lambda: nn.Linear(7, 6),
    "linear without bias": lambda: nn.Linear(7, 6, bias=False),
}


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def layer(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = LAYERS[kind]().double().requires_grad_(False)
    made.weight[1] = 0  # a pruned unit, whose output is exactly 0
    if made.bias is not None:
        made.bias[1] = 0
    return made


def inputs() -> Iterator[tuple[str, Tensor]]:
    signed = randn(3, 4, 7, 7, seed=1)
    yield "signed", signed
    yield "not negative", signed.relu()
    yield "not positive", -signed.relu()
    yield "zero", torch.zeros_like(signed)
    yield "negative zero", -torch.zeros_like(signed)
    yield "one negative", torch.where(signed == signed.min(), signed, signed.relu())


def through(hook: Any, module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    hook = hook.copy()
    handles = hook.register(module)
    try:
        (found,) = torch.autograd.grad(module(x), x, relevance)
    finally:
        handles.remove()
    return found


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "pass"])
def test_a_rule_equals_zennits_whatever_the_signs(rule: str, kind: str) -> None:
    module = layer(kind)
    quick, slow = RULES[rule]
    for name, x in inputs():
        z = module(x)
        both = randn(*z.shape, seed=2)
        for relevance in (both, both * (z > 0), both * (z < 0), torch.zeros_like(both)):
            found = through(quick, module, x, relevance)
            wanted = through(slow, module, x, relevance)
            error = (found - wanted).abs().max()
            assert error <= 1e-8 * wanted.abs().sum(), f"{rule} of a {kind}, {name} inputs"


@pytest.mark.parametrize("module", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2), nn.ReLU()])
def test_pooling_and_activations_follow_zennit(module: nn.Module) -> None:
    rule = "pass" if isinstance(module, nn.ReLU) else "norm"
    for name, x in inputs():
        relevance = randn(*module(x).shape, seed=2)
        found, wanted = (through(hook, module, x, relevance) for hook in RULES[rule])
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0, msg=name)


class Shares(Function):
    """Hand an output on; on the way back multiply by the input's share in it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        ctx.share = share
        return y.clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        return relevance * ctx.share, None, None


def shifted(norm: Any, x: Tensor) -> Tensor:
    """GRN, y = s x + b, with its norms held: b keeps what it gave."""
    y = type(norm).forward(norm, x.detach())
    share = (y - norm.bias.view(norm.wb_shape)) / (y + torch.where(y < 0, -1e-6, 1e-6))
    found: Tensor = Shares.apply(x, y, share)
    return found


def plain(
    criterion: Criterion,
    model: nn.Module,
    graph: UnitGraph,
    entry: Architecture,
    images: Tensor,
    targets: Tensor,
) -> dict[str, Tensor]:
    """Score by zennit's own hooks and canonizers and by gradients of recorded activations."""
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for module in twin.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    if entry.family != "resnet":
        rewrite(twin, entry.explicit("attnlrp"))  # restated by test_lrp_rules
    inner = "gamma" if entry.family == "resnet" else "epsilon"
    chosen = (criterion.low, criterion.middle, criterion.high)
    by_group = zip(chosen, ("epsilon", inner, inner), strict=True)
    names = [layer.name for layer in graph.layers]
    passed: list[Any] = [Activation, BatchNorm]
    if entry.family != "resnet":
        from timm.layers.activations import GELU
        from timm.layers.grn import GlobalResponseNorm

        passed += [GELU]
        for module in twin.modules():
            if isinstance(module, GlobalResponseNorm):
                vars(module)["forward"] = partial(shifted, module)
    composite = NameLayerMapComposite(
        name_map=[
            *(
                ([n for n in names if n.startswith(group)], RULES[auto if r == "auto" else r][1])
                for group, (r, auto) in zip(entry.lrp_groups, by_group, strict=True)
            ),
            ([entry.classifier], RULES["epsilon"][1]),
        ],
        layer_map=[
            (tuple(passed), zennit_rules.Pass()),
            ((Sum, AvgPool), zennit_rules.Norm()),
        ],
        canonizers=[ResNetCanonizer()],
    )
    with base.recording(twin, graph) as recorded, composite.context(twin):
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0  # merged by zennit, which leaves it
        logits = twin(images.clone().requires_grad_())
        activations = [recorded[name] for name in names]
        found = torch.autograd.grad(logits, activations, base.positives(logits, targets))
    return {
        layer.name: base.by_unit(relevance, layer, criterion.aggregation)
        for layer, relevance in zip(graph.layers, found, strict=True)
    }


def pruned(model: nn.Module, graph: UnitGraph) -> None:
    """Zero every third unit with all that it owns."""
    kept = {one.name: torch.arange(one.units) % 3 != 1 for one in graph.layers}
    support = graph.support(Mask("units", kept), "units")
    model.load_state_dict(masks.apply(model.state_dict(), support))


def built(name: str) -> tuple[nn.Module, UnitGraph, Architecture, Tensor]:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 3, CLASSES, seed=1)
    if entry.family == "vit":
        model.blocks = model.blocks[:2]  # the other ten do the same, for half a minute
    generator = torch.Generator().manual_seed(5)
    for value in model.state_dict().values():
        if value.ndim == 1 and value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=generator), alpha=0.3)
    graph = entry.graph(model)
    size = entry.input_size or 40
    return model, graph, entry, torch.randn(2, 3, size, size, generator=generator)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", catalogue.names())
def test_every_architecture_scores_as_under_zennit(name: str, masked: bool) -> None:
    model, graph, entry, images = built(name)
    if masked:
        pruned(model, graph)
    targets = torch.tensor([1, 3])
    criterion = Criterion(aggregation="signed")
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        given = (model.to(dtype), graph, entry)
        with criterion.explaining(*given) as explain:
            found = explain(images.to(dtype), targets)
        for layer_name, value in plain(criterion, *given, images.to(dtype), targets).items():
            error = (found[layer_name] - value).abs().max()
            assert error <= tolerance * value.abs().sum(), f"{layer_name} in {dtype}"
    if masked:
        for one in graph.layers:
            # What a zeroed unit gets through a LayerNorm or a sum is shared by its activation: 0.
            assert (found[one.name][:, torch.arange(one.units) % 3 == 1] == 0).all()


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus", "alpha2beta1"])
@pytest.mark.parametrize("aggregation", ["signed", "abs_of_spatial_sum", "abs_elementwise"])
def test_every_rule_scores_a_residual_network_as_under_zennit(rule: Any, aggregation: Any) -> None:
    model, graph, entry, images = built("resnet6")
    model.double()
    criterion = Criterion(low=rule, middle=rule, high=rule, aggregation=aggregation)
    targets = torch.tensor([1, 3])
    with criterion.explaining(model, graph, entry) as explain:
        found = explain(images.double(), targets)
    for name, value in plain(criterion, model, graph, entry, images.double(), targets).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-8 * float(value.abs().sum()))


@pytest.mark.parametrize("name", ["resnet6", "convnextv2_atto"])
def test_rounding_does_not_choose_units(name: str) -> None:
    model, graph, entry, images = built(name)
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if ".grn." in parameter:
                value.normal_(0, 0.5, generator=torch.Generator().manual_seed(9))
    reference = base.Reference(images, torch.tensor([1, 3]))
    single, double = (
        masks.keep_highest(
            Criterion().score(
                model.to(dtype), graph, entry, reference, seed=0, batch_size=2
            ), 0.5,
        )
        for dtype in (torch.float32, torch.float64)
    )  # fmt: skip
    assert single.digest() == double.digest()


def test_what_a_shift_gave_reaches_no_input() -> None:
    from timm.layers.grn import GlobalResponseNorm

    norm = GlobalResponseNorm(2, channels_last=False).double()
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([0.5, -0.5]))
    x = torch.tensor([1e-9, 2.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    found = through(rules.Shifted(), norm, x, torch.ones_like(x)).reshape(2)
    # The first output is all shift, so its input is owed nothing; the second is 2 of 1.5.
    torch.testing.assert_close(found, torch.tensor([2e-9, 2 / 1.5]).double(), rtol=1e-5, atol=1e-12)


class WeightGradients(TorchDispatchMode):
    """Count the convolutions whose weight's gradient is computed."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.count += args[-1][1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "most"), [("resnet6", 1.1), ("resnet18", 1.2), ("convnextv2_atto", 0.75)]
)
def test_a_pass_multiplies_little_more_than_a_gradient_does(name: str, most: float) -> None:
    model, graph, entry, images = built(name)
    targets = torch.tensor([1, 3])
    with FlopCounterMode(display=False) as training:
        nn.functional.cross_entropy(model.train()(images), targets).backward()
    with (
        WeightGradients() as weights,
        FlopCounterMode(display=False) as explaining,
        Criterion().explaining(model, graph, entry) as explain,
    ):
        explain(images, targets)
    assert weights.count == 0
    assert explaining.get_total_flops() <= most * training.get_total_flops()
