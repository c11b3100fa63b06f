import pytest
import torch

from fedx_core.base.errors import MaskError
from fedx_core.models import catalogue
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.pruning.structure import UnitGraph

SMALL = ["resnet6", "resnet18", "resnet50", "convnextv2_atto"]
PARAMETERS = {
    "resnet6": 338_067,
    "resnet18": 11_208_211,
    "resnet50": 23_568_915,
    "convnextv2_atto": 3_397_979,
    "convnextv2_nano": 15_003_939,
    "vit_tiny": 2_808_979,  # ours
    "vit_base_patch16_224": 87_189_523,
}


def build(name: str, *, heads: bool = False) -> tuple[torch.nn.Module, UnitGraph]:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 10, 19, seed=3)
    return model, entry.graph(model, heads=heads)


def random_mask(graph: UnitGraph, rate: float, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    scores = {x.name: torch.rand(x.units, generator=generator) for x in graph.layers}
    return keep_highest(scores, rate)


def disturb_norms(model: torch.nn.Module) -> None:
    """Give norms other values than those they start with, so that nothing is zero by luck."""
    generator = torch.Generator().manual_seed(7)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        if "grn" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)


@pytest.mark.parametrize("name", catalogue.names())
def test_parameter_counts_are_the_papers(name: str) -> None:
    model, _ = build(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_units_are_all_convolutions_and_linear_layers_but_the_classifier() -> None:
    _, graph = build("resnet18")
    names = [layer.name for layer in graph.layers]
    assert "conv1" in names
    assert "layer2.0.downsample.0" in names
    assert "fc" not in names
    assert len(names) == 20
    assert sum(layer.units for layer in graph.layers) == 4_800


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_a_dead_units_output_is_exactly_zero(name: str, rate: float) -> None:
    model, graph = build(name)
    disturb_norms(model)
    mask = random_mask(graph, rate)
    model.load_state_dict(masks.apply(model.state_dict(), graph.support(mask, "units")))
    seen: dict[str, torch.Tensor] = {}
    handles = [
        dict(model.named_modules())[layer.measured_at].register_forward_hook(
            lambda _m, _i, out, layer=layer: seen.update({layer.name: out.detach().clone()})
        )
        for layer in graph.layers
    ]
    model.eval()
    model(torch.randn(2, 10, 64, 64))
    for handle in handles:
        handle.remove()
    for layer in graph.layers:
        output = seen[layer.name].movedim(layer.unit_dim, 0)
        assert not output[~mask.entries[layer.name]].any()
        assert output[mask.entries[layer.name]].any()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_zeroing_what_reads_dead_units_does_not_change_the_function(
    name: str, training: bool
) -> None:
    model, graph = build(name)
    disturb_norms(model)
    mask = random_mask(graph, 0.6)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randn(4, 10, 64, 64)
    outputs = []
    for mode in ("units", "slices"):
        model.load_state_dict(masks.apply(state, graph.support(mask, mode)))
        model.train(training)
        outputs.append(model(images).detach())
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", SMALL)
def test_slices_are_zeroed_somewhere_outside_the_units_own_entries(name: str) -> None:
    _, graph = build(name)
    mask = random_mask(graph, 0.6)
    own, closed = graph.support(mask, "units"), graph.support(mask, "slices")
    assert sum(masks.kept_count(k, graph.shapes[n]) for n, k in closed.items() if n in own) < sum(
        masks.kept_count(k, graph.shapes[n]) for n, k in own.items()
    )


def test_a_residual_channel_closes_only_where_every_writer_is_dead() -> None:
    _, graph = build("resnet6")
    entries = {layer.name: torch.ones(layer.units, dtype=torch.bool) for layer in graph.layers}
    entries["layer2.0.conv2"][:2] = False
    entries["layer2.0.downsample.0"][1:3] = False
    kept = graph.support(Mask("units", entries), "slices")["fc.weight"].reshape(-1)
    assert kept.tolist() == [True, False, *[True] * 126]


def test_rows_follow_the_papers_count_of_one_scalar_a_unit() -> None:
    for name, scalars in (("resnet6", "bn1.weight"), ("convnextv2_atto", "stem.0.bias")):
        _, graph = build(name)
        support = graph.support(random_mask(graph, 0.5), "rows")
        assert scalars in support
        assert not any("running" in entry or "bn1.bias" in entry for entry in support)
        dead = sum(
            int(torch.Size(graph.shapes[n]).numel()) - masks.kept_count(k, graph.shapes[n])
            for n, k in support.items()
        )
        mask = random_mask(graph, 0.5)
        assert dead == sum(
            int((~mask.entries[x.name]).sum()) * graph.paper_scalars(x) for x in graph.layers
        )


def test_attention_heads_prune_their_rows_of_query_key_and_value() -> None:
    _, graph = build("vit_base_patch16_224", heads=True)
    layer = graph.layer("blocks.0.attn.qkv")
    assert layer.units == 12
    entries = {x.name: torch.ones(x.units, dtype=torch.bool) for x in graph.layers}
    entries[layer.name][1] = False
    support = graph.support(Mask("units", entries), "slices")
    rows = (~support["blocks.0.attn.qkv.weight"].reshape(-1)).nonzero().reshape(-1).tolist()
    assert rows == [*range(64, 128), *range(832, 896), *range(1600, 1664)]
    columns = (~support["blocks.0.attn.proj.weight"].reshape(-1)).nonzero().reshape(-1).tolist()
    assert columns == list(range(64, 128))


def test_a_mask_of_another_model_is_refused_by_name() -> None:
    _, six = build("resnet6")
    _, eighteen = build("resnet18")
    with pytest.raises(MaskError, match="does not fit this model"):
        six.support(random_mask(eighteen, 0.5), "units")


def test_no_mask_keeps_everything() -> None:
    _, graph = build("resnet6")
    assert graph.support(None, "slices") == {}
    assert graph.support(random_mask(graph, 0.0), "slices") == {}
