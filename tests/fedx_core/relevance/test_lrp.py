import dataclasses

import pytest
import torch
from torch import Tensor, nn

from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.propagation import explicit
from fedx_core.pruning.masks import Scores
from fedx_core.relevance import base
from fedx_core.relevance._streamline import streamline
from fedx_core.relevance.lrp import Criterion


def without_biases(name: str) -> nn.Module:
    """Build a model in float64 whose layers add nothing, so that no bias can absorb relevance."""
    model = catalogue.build(name, 3, 4, seed=1).double()
    model.fc.bias.data.zero_()
    return model


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()


def score(model: nn.Module, name: str, criterion: Criterion, targets: Tensor) -> Scores:
    entry = catalogue.entry(name)
    graph = entry.graph(model)
    reference = base.Reference(images(len(targets)), targets)
    return criterion.score(model, graph, entry, reference, seed=0, batch_size=2)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus"])
def test_relevance_is_conserved_at_every_cut_of_a_residual_network(rule: str) -> None:
    criterion = Criterion(low=rule, middle=rule, high=rule, aggregation="signed", epsilon=1e-9)
    scores = score(without_biases("resnet6"), "resnet6", criterion, torch.tensor([0, 1, 3]))
    total = {name: float(value.sum()) for name, value in scores.items()}
    # Each image starts with a relevance of 1, and so does the mean over images.
    assert total["conv1"] == pytest.approx(1, abs=1e-3)
    # The skip path holds the rest of the relevance where a branch alone is measured.
    assert total["layer2.0.conv2"] + total["layer2.0.downsample.0"] == pytest.approx(1, abs=1e-3)
    assert total["layer2.0.conv1"] == pytest.approx(total["layer2.0.conv2"], abs=1e-3)
    assert total["layer1.0.conv1"] == pytest.approx(total["layer1.0.conv2"], abs=1e-3)


def test_epsilon_without_biases_is_activation_times_gradient_of_the_logit() -> None:
    model = without_biases("resnet6")
    model.maxpool = nn.Identity()
    targets = torch.tensor([0, 1, 3])
    criterion = Criterion(
        middle="epsilon", high="epsilon", epsilon=1e-12, initial="logit", aggregation="signed"
    )
    found = score(model, "resnet6", criterion, targets)
    graph = catalogue.entry("resnet6").graph(model)
    twin = base.copy_to_explain(model)
    with base.recording(twin, graph) as recorded:
        logits = twin(images().requires_grad_())
        kept = [recorded[layer.name] for layer in graph.layers]
        gradients = torch.autograd.grad(logits[range(3), targets].sum(), kept)
    assert len(kept) == 6
    for layer, a, g in zip(graph.layers, kept, gradients, strict=True):
        wanted = (a * g).detach().sum((0, 2, 3)) / 3
        torch.testing.assert_close(found[layer.name].double(), wanted, rtol=1e-3, atol=1e-5)


def test_labels_start_with_one_or_with_their_logits() -> None:
    logits = torch.tensor([[2.0, -3.0, 0.5]])
    single, many = torch.tensor([1]), torch.tensor([[1, 1, 0]])
    start = {
        (initial, targets.ndim): Criterion(initial=initial).initial_relevance(logits, targets)
        for initial in ("one", "logit")
        for targets in (single, many)
    }
    assert start["one", 1].tolist() == [[0, 1, 0]]
    assert start["logit", 1].tolist() == [[0, -3, 0]]
    assert start["logit", 2].tolist() == [[2, -3, 0]]
    assert start["one", 2].tolist() == [[1, 1, 0]]


def test_relevance_of_several_labels_is_the_sum_over_labels() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1).double()
    criterion = Criterion(aggregation="signed")
    both = score(model, "resnet6", criterion, torch.tensor([[1, 0, 1, 0]]))
    parts = [
        score(model, "resnet6", criterion, torch.tensor([[1, 0, 0, 0]])),
        score(model, "resnet6", criterion, torch.tensor([[0, 0, 1, 0]])),
    ]
    for name, value in both.items():
        torch.testing.assert_close(value, parts[0][name] + parts[1][name], rtol=1e-4, atol=1e-6)


def test_a_unit_that_is_zeroed_has_no_relevance() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    model.conv1.weight.data[5] = 0
    model.bn1.weight.data[5] = 0
    scores = score(model, "resnet6", Criterion(), torch.tensor([0, 1]))
    assert scores["conv1"][5] == 0
    assert (scores["conv1"] > 0).sum() > 32


def test_a_module_without_a_rule_is_refused_by_name() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    model.layer2[0].relu = nn.Softmax2d()
    with pytest.raises(ConfigError, match=r"no rule for 'layer2\.0\.relu', a Softmax2d"):
        score(model, "resnet6", Criterion(), torch.tensor([0, 1]))


@pytest.mark.parametrize("setting", [{"gamma": -1.0}, {"epsilon": 0.0}, {"low": "gama"}])
def test_impossible_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Criterion(**setting)


def test_merged_batch_norms_keep_the_models_answer() -> None:
    model = catalogue.build("resnet18", 3, 4, seed=1).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.001, 2)
            nn.init.uniform_(module.running_mean)
    wanted = model(images())
    twin = base.copy_to_explain(model)
    streamline(twin, catalogue.entry("resnet6").graph(model))
    torch.testing.assert_close(twin(images()), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["convnextv2_atto", "vit_base_patch16_224"])
def test_the_rewritten_copy_answers_as_the_model_does(name: str) -> None:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 3, 4, seed=1).eval()
    twin = base.copy_to_explain(model)
    explicit.rewrite(twin, entry.explicit("attnlrp"))
    size = entry.input_size or 64
    batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(twin(batch), model(batch), rtol=1e-4, atol=1e-5)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def relevance_through(output: Tensor, inputs: list[Tensor], relevance: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output, inputs, relevance))


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_attention_products_conserve_relevance(share: float) -> None:
    left = randn(2, 3, 4, 5, seed=1).requires_grad_()
    right = randn(2, 3, 5, 6, seed=2).requires_grad_()
    relevance = randn(2, 3, 4, 6, seed=3)
    product = explicit.MatMul.apply(left, right, 0.3, share)
    to_left, to_right = relevance_through(product, [left, right], relevance)
    torch.testing.assert_close(to_left.sum(), share * relevance.sum(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(to_right.sum(), (1 - share) * relevance.sum(), rtol=1e-3, atol=1e-3)


def test_a_sum_conserves_relevance_position_by_position() -> None:
    left, right = randn(7, seed=1).requires_grad_(), randn(7, seed=2).requires_grad_()
    relevance = randn(7, seed=3)
    parts = relevance_through(explicit.Add.apply(left, right), [left, right], relevance)
    torch.testing.assert_close(parts[0] + parts[1], relevance, rtol=1e-4, atol=1e-4)


def test_layer_norm_without_shift_conserves_relevance_of_each_token() -> None:
    x = randn(3, 8, seed=1).requires_grad_()
    y = explicit.LayerNorm.apply(x, torch.rand(8).double() + 0.5, torch.zeros(8).double(), 1e-6)
    relevance = randn(3, 8, seed=2)
    (found,) = relevance_through(y, [x], relevance)
    torch.testing.assert_close(found.sum(-1), relevance.sum(-1), rtol=5e-3, atol=1e-3)


def test_softmax_gives_its_scores_a_gradient_times_their_value() -> None:
    scores = randn(2, 5, seed=1).requires_grad_()
    relevance = randn(2, 5, seed=2)
    (found,) = relevance_through(explicit.Softmax.apply(scores), [scores], relevance)
    weights = scores.softmax(-1)
    # First-order expansion: R_S = S * sum_k (dA_k / dS) R_k / A_k.
    (wanted,) = torch.autograd.grad(weights, scores, relevance / weights.detach())
    torch.testing.assert_close(found, (scores * wanted).detach())


def test_settings_can_be_written_down_and_read_back() -> None:
    criterion = Criterion(low="zplus", gamma=0.1)
    assert Criterion(**dataclasses.asdict(criterion)) == criterion


def test_convnext_is_explained_in_float64_in_batches_of_half_the_images() -> None:
    model = catalogue.build("convnextv2_atto", 3, 4, seed=1).eval()
    targets = torch.tensor([0, 1, 3])
    at_once: list[tuple[int, torch.dtype]] = []
    model.head.fc.register_forward_pre_hook(
        lambda _, inputs: at_once.append((len(inputs[0]), inputs[0].dtype))
    )

    def seen(criterion: Criterion) -> list[tuple[int, torch.dtype]]:
        at_once.clear()
        score(model, "convnextv2_atto", criterion, targets)  # two images at a time
        return list(at_once)

    assert seen(Criterion()) == 3 * [(1, torch.float64)]
    assert seen(Criterion(precision="model")) == [(2, torch.float32), (1, torch.float32)]


def test_any_model_is_explained_in_float64_where_asked_for() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1).eval()
    targets = torch.tensor([0, 1, 3])
    found = score(model, "resnet6", Criterion(precision="float64"), targets)
    wanted = score(model.double(), "resnet6", Criterion(), targets)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-9)
    with pytest.raises(ConfigError, match="precision is 'float16'; choose one of auto, model"):
        Criterion(precision="float16")  # type: ignore[arg-type]
