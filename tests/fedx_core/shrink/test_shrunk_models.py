"""The small model is the masked model: outputs, gradients, one optimiser step, statistics."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedx_core.base.errors import MaskError
from fedx_core.models import catalogue
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.pruning.shrink.model import shrink
from fedx_core.pruning.shrink.values import cut, grow
from fedx_core.pruning.structure import UnitGraph

LARGE = [name for name in catalogue.names() if catalogue.entry(name).input_size]
SMALL = [name for name in catalogue.names() if name not in LARGE]
TOLERANCE = 1e-10


def build(name: str) -> tuple[nn.Module, UnitGraph]:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 3, 5, seed=3)
    return model, entry.graph(model)


def small_vit(*, heads: bool) -> tuple[nn.Module, UnitGraph]:
    """The catalogue's transformer, with fewer and narrower blocks."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model: nn.Module = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=4, num_classes=5
    )
    return model, catalogue.entry("vit_base_patch16_224").graph(model, heads=heads)


def small_convnext() -> tuple[nn.Module, UnitGraph]:
    """The catalogue's ConvNeXt V2, with fewer and narrower blocks."""
    from timm.models.convnext import ConvNeXt

    torch.manual_seed(0)
    model: nn.Module = ConvNeXt(
        depths=(1, 2, 1, 1), dims=(6, 8, 10, 12), num_classes=5, use_grn=True, ls_init_value=None
    )
    return model, catalogue.entry("convnextv2_atto").graph(model)


def shrunk(model: nn.Module, graph: UnitGraph, mask: Mask) -> nn.Module:
    """Shrink a model by what its family says."""
    of = {"VisionTransformer": "vit_base_patch16_224", "ConvNeXt": "convnextv2_atto"}
    return shrink(model, graph, mask, catalogue.entry(of.get(type(model).__name__, "resnet6")))


def random_mask(graph: UnitGraph, rate: float, seed: int = 0, min_keep: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    scores = {x.name: torch.rand(x.units, generator=generator) for x in graph.layers}
    return keep_highest(scores, rate, min_keep=min_keep)


def drawn_values(model: nn.Module, seed: int = 7) -> None:
    """Give norms and biases other values than their first ones, so that nothing is zero by luck."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and (value.ndim == 1 or "grn" in name):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)


def step(
    model: nn.Module, images: Tensor, hold: Callable[[nn.Module], None] = lambda _: None
) -> dict[str, dict[str, Tensor]]:
    """Train one step and return what can be compared."""
    model.train()
    # Adam's own epsilon of 1e-8 magnifies the rounding of gradients near zero a million times.
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-1, eps=1e-2)
    logits = model(images)
    loss = nn.functional.cross_entropy(logits, torch.arange(len(images)) % 5)
    loss.backward()
    hold(model)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimiser.step()
    model.eval()
    with torch.no_grad():
        after = model(images)
    return {
        "logits": {"train": logits.detach(), "evaluation": after},
        "gradients": gradients,
        "state": dict(model.state_dict()),
    }


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        if value.numel():
            scale = max(1.0, float(value.abs().max()))
            error = float((found[name] - value).abs().max())
            assert error <= TOLERANCE * scale, f"{name}: {error}"


def check(model: nn.Module, graph: UnitGraph, mask: Mask, images: Tensor) -> nn.Module:
    """Compare one training step of the masked and of the small model in float64."""
    model.double()
    drawn_values(model)
    support, cuts = graph.support(mask, "slices"), graph.cuts(mask, "slices")
    model.load_state_dict(masks.apply(model.state_dict(), support))
    small = shrunk(model, graph, mask)
    assert list(small.state_dict()) == list(model.state_dict())

    def hold(masked: nn.Module) -> None:
        for name, parameter in masked.named_parameters():
            if name in support and parameter.grad is not None:
                parameter.grad.mul_(support[name])

    wanted, found = step(model, images, hold), step(small, images)
    assert_same(found["logits"], wanted["logits"])
    assert_same(found["state"], cut(wanted["state"], cuts))
    empty = [n for n, v in found["state"].items() if not v.numel()]
    assert found["gradients"].keys() | empty == wanted["gradients"].keys() | empty
    assert_same(found["gradients"], cut(
        {n: g for n, g in wanted["gradients"].items() if n in found["gradients"]}, cuts
    ))  # fmt: skip
    for name, kept in support.items():
        value = wanted["state"][name]
        assert not value[~kept.expand(value.shape)].any(), name
    zeros = {name: torch.zeros_like(value) for name, value in wanted["state"].items()}
    assert_same(grow(found["state"], cuts, zeros), wanted["state"])
    return small


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.9])
def test_a_small_model_steps_as_the_masked_one_does(name: str, rate: float) -> None:
    model, graph = build(name)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    check(model, graph, random_mask(graph, rate), images)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.9])
def test_a_small_transformer_steps_as_the_masked_one_does(heads: bool, rate: float) -> None:
    model, graph = small_vit(heads=heads)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    small = check(model, graph, random_mask(graph, rate), images)
    if heads:
        alive = 4 - int(rate * 4)
        assert small.get_submodule("blocks.0.attn").num_heads == alive


@pytest.mark.parametrize("name", LARGE)
def test_a_large_model_computes_the_same_without_its_dead_units(name: str) -> None:
    model, graph = build(name)
    mask = random_mask(graph, 0.5)
    model.load_state_dict(masks.apply(model.state_dict(), graph.support(mask, "slices")))
    small = shrunk(model, graph, mask).double().eval()
    side = catalogue.entry(name).input_size or 0
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        assert_same({"": small(images)}, {"": model.double().eval()(images)})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["resnet6", "convnextv2_atto"])
def test_a_model_with_one_unit_a_layer_steps_as_the_masked_one_does(
    name: str, memory_format: Any
) -> None:
    model, graph = build(name)
    mask = random_mask(graph, 0.9999, min_keep=1)
    assert all(int(kept.sum()) == 1 for kept in mask.entries.values())
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64).to(memory_format=memory_format)
    check(model.to(memory_format=memory_format), graph, mask, images)


@pytest.mark.parametrize(
    "small",
    [
        lambda: build("resnet6"),
        small_convnext,
        lambda: small_vit(heads=False),
        lambda: small_vit(heads=True),
    ],
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mask_will_do_even_one_that_leaves_layers_empty(
    small: Callable[[], tuple[nn.Module, UnitGraph]], data: Any
) -> None:
    model, graph = small()
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    entries = {}
    for layer in graph.layers:
        share = data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
        entries[layer.name] = torch.rand(layer.units, generator=generator) < share
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator)
    check(model, graph, Mask("units", entries), images)


def test_cutting_and_growing_are_inverse_on_what_is_alive() -> None:
    model, graph = build("resnet18")
    cuts = graph.cuts(random_mask(graph, 0.7), "slices")
    state = model.state_dict()
    small = cut(state, cuts)
    assert_same(cut(grow(small, cuts, state), cuts), small)
    assert_same(grow(small, cuts, state), state)
    dense = {name: torch.full_like(value, 9) for name, value in state.items()}
    grown = grow(small, cuts, dense)
    support = graph.support(random_mask(graph, 0.7), "slices")
    for name, kept in support.items():
        dead = ~kept.expand(state[name].shape)
        assert (grown[name][dead] == 9).all()
        assert torch.equal(grown[name][~dead], state[name][~dead])
    assert all(torch.equal(value, torch.full_like(value, 9)) for value in dense.values())


def test_the_model_that_is_shrunk_stays_as_it_is_and_shares_nothing() -> None:
    model, graph = build("resnet6")
    before = copy.deepcopy(model.state_dict())
    small = shrunk(model, graph, random_mask(graph, 0.5))
    with torch.no_grad():
        for value in small.state_dict().values():
            value.zero_()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rows_of_residual_channels_that_others_keep_alive_go_all_the_same() -> None:
    model, graph = build("resnet6")
    entries = {x.name: torch.ones(x.units, dtype=torch.bool) for x in graph.layers}
    entries["layer1.0.conv2"][:60] = False
    small = shrunk(model, graph, Mask("units", entries)).state_dict()
    assert small["layer1.0.conv2.weight"].shape == (4, 64, 3, 3)
    assert small["layer1.0.bn2.running_var"].shape == (4,)
    assert small["layer2.0.conv1.weight"].shape == (128, 64, 3, 3)
    entries["conv1"][:50] = False
    small = shrunk(model, graph, Mask("units", entries)).state_dict()
    # The block's own reader sees what the stem writes; the next one also what the block adds.
    assert small["layer1.0.conv1.weight"].shape == (64, 14, 3, 3)
    assert small["layer2.0.conv1.weight"].shape == (128, 14, 3, 3)


def test_a_mask_of_parameters_is_refused() -> None:
    model, graph = build("resnet6")
    mask = Mask("parameters", {"fc.weight": torch.ones(5, 128, dtype=torch.bool)})
    with pytest.raises(MaskError, match=r"training\.shrink"):
        shrunk(model, graph, mask)
