"""What every criterion must do, whatever it measures."""

import copy
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError, ReferenceSetError
from fedx_core.models import catalogue
from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph
from fedx_core.relevance.base import Criterion, Reference

CRITERIA = plugins.names("relevance")
EXPLAINING = [name for name in CRITERIA if plugins.load("relevance", name).needs_reference]
CLASSES = 4


@dataclass(frozen=True)
class Case:
    """A model with what a criterion needs besides."""

    model: nn.Module
    graph: UnitGraph
    entry: Architecture
    reference: Reference


def small_convnext() -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(
        num_classes=CLASSES,
        depths=(1, 1, 1, 1),
        dims=(8, 8, 12, 16),
        use_grn=True,
        ls_init_value=None,
        conv_mlp=True,
    )


def small_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, num_classes=CLASSES, embed_dim=16, depth=2, num_heads=4
    )


@cache
def case(name: str) -> Case:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(5, 3, 32, 32, generator=generator)
    entry = catalogue.entry(
        {"convnext": "convnextv2_atto", "vit": "vit_base_patch16_224"}.get(
            name.removesuffix(" heads"), "resnet6"
        )
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = {"resnet6": lambda: catalogue.build("resnet6", 3, CLASSES, seed=1)}.get(
            name, small_convnext if name == "convnext" else small_vit
        )()
        for parameter in model.parameters():  # timm starts GRN at 0, where it does nothing
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.1, 0.5)
    graph = entry.graph(model, heads=name.endswith("heads"))
    return Case(model, graph, entry, Reference(images, torch.tensor([0, 1, 2, 3, 0])))


CASES = ["resnet6", "convnext", "vit", "vit heads"]
# Those models that a criterion can score; a new one that can't score all adds its line here.
SCORED = {"batch_norm_scale": ["resnet6"]}
PAIRS = [(name, model) for name in CRITERIA for model in SCORED.get(name, CASES)]


def score(name: str, given: Case, *, seed: int = 7, batch_size: int = 2) -> Scores:
    criterion: Criterion = plugins.build("relevance", name, {})
    return criterion.score(
        given.model,
        given.graph,
        given.entry,
        given.reference,
        seed=seed,
        batch_size=batch_size,
    )


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_every_unit_gets_one_finite_score(name: str, model: str) -> None:
    given = case(model)
    scores = score(name, given)
    assert list(scores) == [layer.name for layer in given.graph.layers]
    for layer in given.graph.layers:
        value = scores[layer.name]
        assert value.shape == (layer.units,)
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        assert not value.requires_grad
        assert torch.isfinite(value).all()
        assert value.unique().numel() > 1, f"all units of {layer.name} score the same"


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_the_same_call_gives_the_same_bits(name: str, model: str) -> None:
    first, second = score(name, case(model)), score(name, case(model))
    assert state.equal(first, second)


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_the_batch_size_changes_nothing_but_rounding(name: str, model: str) -> None:
    given = case(model)
    given = replace(
        given,
        model=copy.deepcopy(given.model).double(),
    )
    one, all_ = score(name, given, batch_size=1), score(name, given, batch_size=64)
    for layer, value in one.items():
        torch.testing.assert_close(value, all_[layer], rtol=1e-4, atol=1e-8)


def fingerprint(model: nn.Module) -> tuple[object, ...]:
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return (
        state.digest(model.state_dict()),
        state.digest(gradients),
        [module.training for module in model.modules()],
        [getattr(module, "inplace", None) for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [
            len(module._forward_hooks)
            + len(module._forward_pre_hooks)
            + len(module._backward_hooks)
            for module in model.modules()
        ],
        [sorted(vars(module)) for module in model.modules()],
    )


@pytest.mark.parametrize(("name", "model"), [pair for pair in PAIRS if pair[1] != "vit heads"])
@pytest.mark.parametrize("training", [True, False])
def test_explaining_leaves_the_model_bit_for_bit(name: str, model: str, training: bool) -> None:
    given = case(model)
    twin = copy.deepcopy(given.model).train(training)
    for parameter in twin.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = fingerprint(twin)
    random_state = torch.random.get_rng_state()
    score(name, replace(given, model=twin))
    assert fingerprint(twin) == before
    assert torch.equal(torch.random.get_rng_state(), random_state)


@pytest.mark.parametrize(
    "name", [n for n in CRITERIA if plugins.load("relevance", n).needs_reference]
)
@pytest.mark.parametrize("model", ["resnet6", "convnext", "vit"])
def test_a_failing_explanation_leaves_the_model_bit_for_bit(name: str, model: str) -> None:
    given = case(model)
    before = fingerprint(given.model)
    wrong = Reference(given.reference.images, torch.tensor([0, 1, 2, 3, CLASSES]))
    with pytest.raises(ReferenceSetError, match="classes 0 to 3"):
        score(name, replace(given, reference=wrong))
    assert fingerprint(given.model) == before


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("model", CASES)
def test_a_model_is_refused_before_a_run_begins_or_not_at_all(name: str, model: str) -> None:
    given = case(model)
    criterion: Criterion = plugins.build("relevance", name, {})
    if (name, model) in PAIRS:
        criterion.check(given.graph)
        return
    with pytest.raises(ConfigError, match=name):
        criterion.check(given.graph)
    with pytest.raises(ConfigError, match=name):
        score(name, given)


@pytest.mark.parametrize("name", CRITERIA)
def test_several_labels_an_image_can_be_explained(name: str) -> None:
    given = case("resnet6")
    labels = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]])
    for targets in (labels.to(torch.uint8), labels.float()):
        scores = score(name, replace(given, reference=Reference(given.reference.images, targets)))
        assert all(torch.isfinite(value).all() for value in scores.values())


@pytest.mark.parametrize("name", CRITERIA)
def test_a_missing_reference_set_is_refused_where_it_is_needed(name: str) -> None:
    given = case("resnet6")
    criterion: Criterion = plugins.build("relevance", name, {})

    def explain() -> Scores:
        return criterion.score(given.model, given.graph, given.entry, None, seed=1, batch_size=2)

    if criterion.needs_reference:
        with pytest.raises(ReferenceSetError, match="no reference set"):
            explain()
    else:
        assert len(explain()) == len(given.graph.layers)


@pytest.mark.parametrize("name", CRITERIA)
def test_unknown_parameters_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"criterion '{name}' has no parameter 'gama'"):
        plugins.build("relevance", name, {"gama": 1})


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_is_frozen_and_compares_by_its_settings(name: str) -> None:
    first, second = (plugins.build("relevance", name, {}) for _ in range(2))
    assert first == second
    with pytest.raises(AttributeError):
        first.anything = 1


def reference_for(entry: Architecture, images: int) -> Reference:
    size = entry.input_size or 64
    pixels = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(4))
    targets: Tensor = torch.arange(images) % CLASSES
    return Reference(pixels, targets)


@pytest.mark.parametrize("architecture", catalogue.names())
@pytest.mark.parametrize("name", ["lrp", "taylor"])
def test_every_architecture_of_the_catalogue_can_be_explained(name: str, architecture: str) -> None:
    entry = catalogue.entry(architecture)
    model = catalogue.build(architecture, 3, CLASSES, seed=1)
    graph = entry.graph(model)
    scores = score(name, Case(model, graph, entry, reference_for(entry, 2)))
    for layer in graph.layers:
        assert torch.isfinite(scores[layer.name]).all()
        assert scores[layer.name].unique().numel() > layer.units // 2
