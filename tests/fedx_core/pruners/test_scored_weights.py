"""Single weights by a criterion: their scores from the equations, and what stays of the model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bed import Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.pruners.scored_weights import by_unit
from fedx_core.pruning.sparsity import largest
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.relevance import base
from fedx_core.relevance.base import Weighing
from fedx_core.relevance.lrp import Criterion as Lrp
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store

WEIGHING = [
    n for n in plugins.names("relevance") if isinstance(plugins.build("relevance", n, {}), Weighing)
]
OTHERS = [n for n in plugins.names("relevance") if n not in WEIGHING]


def by(criterion: str, **more: Any) -> dict[str, Any]:
    pruner = {"name": "scored_weights", "density": 0.1, "relevance": {"name": criterion}, **more}
    return {"method": {"name": "fedavg", "pruner": pruner}}


def fresh() -> nn.Module:
    return catalogue.build("resnet6", 3, 4, seed=1).double().eval()


def weighed(criterion: Weighing, batch_size: int = 2) -> tuple[nn.Module, dict[str, Tensor]]:
    model, entry = fresh(), catalogue.entry("resnet6")
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    reference = base.Reference(images, torch.tensor([0, 1, 3, 2, 1]))
    scores = criterion.weigh(
        model, entry.graph(model), entry, reference, seed=0, batch_size=batch_size
    )
    return model, dict(scores)


def test_four_criteria_score_single_weights() -> None:
    assert WEIGHING == ["lrp", "magnitude", "random", "snip"]


@pytest.mark.parametrize("name", WEIGHING)
def test_each_weight_of_each_layer_has_one_finite_score(name: str) -> None:
    model, scores = weighed(plugins.build("relevance", name, {}))
    graph = catalogue.entry("resnet6").graph(model)
    assert list(scores) == [layer.weight for layer in graph.layers]
    for key, value in scores.items():
        assert value.shape == model.get_parameter(key).shape
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert value.std() > 0
    untouched, again = weighed(plugins.build("relevance", name, {}), batch_size=5)
    assert state.equal(untouched.state_dict(), fresh().state_dict())
    for key, value in again.items():
        torch.testing.assert_close(value, scores[key], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet6", "vit_tiny"])
def test_relevance_of_weights_adds_up_to_that_of_their_units(name: str) -> None:
    """Where nothing but weights feeds a unit, R_j = sum over i of R_ij."""
    criterion = Lrp(aggregation="signed", epsilon=1e-12, precision="float64")
    model = catalogue.build(name, 3, 4, seed=1).double().eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.zero_()
    entry = catalogue.entry(name)
    side = 64 if name == "vit_tiny" else 32
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2)).double()
    asked = (model, entry.graph(model), entry, base.Reference(images, torch.tensor([0, 1, 3])))
    units = criterion.score(*asked, seed=0, batch_size=2)
    weights = criterion.weigh(*asked, seed=0, batch_size=2)
    for layer in entry.graph(model).layers:
        if layer.measured_input:
            continue
        found = weights[layer.weight].flatten(1).sum(1)
        torch.testing.assert_close(found, units[layer.name], rtol=1e-3, atol=1e-5)


def test_relevance_of_a_weight_is_what_it_contributed_position_by_position() -> None:
    """The first convolution's, from the definition: x_i w_ij R_j / z_j, summed by hand."""
    criterion = Lrp(aggregation="signed", epsilon=1e-9)
    model, scores = weighed(criterion)
    entry = catalogue.entry("resnet6")
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    targets = torch.tensor([0, 1, 3, 2, 1])
    norm = model.bn1
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    kernel = (model.conv1.weight * scale[:, None, None, None]).detach()
    shift = (norm.bias - norm.running_mean * scale).detach()
    seen: list[Tensor] = []

    def listen(_: nn.Module, __: Any, output: Any) -> None:
        output.register_hook(seen.append)

    with criterion.down_to_pixels(model, entry.graph(model), entry) as twin:
        twin.bn1.register_forward_hook(listen)
        pixels = images.clone().requires_grad_()
        logits = twin(pixels)
        torch.autograd.grad(logits, pixels, criterion.initial_relevance(logits.detach(), targets))
    (relevance,) = seen
    stride, padding = model.conv1.stride, model.conv1.padding[0]
    z = functional.conv2d(images, kernel, shift, stride, padding)
    around = functional.pad(images, [padding] * 4)
    for unit, channel, row, column in ((0, 0, 0, 0), (3, 2, 1, 2), (7, 1, 2, 0)):
        total = 0.0
        for image in range(5):
            for top in range(z.shape[2]):
                for left in range(z.shape[3]):
                    x = around[image, channel, top * stride[0] + row, left * stride[1] + column]
                    share = x * kernel[unit, channel, row, column] / z[image, unit, top, left]
                    total += float(share * relevance[image, unit, top, left])
        found = float(scores["conv1.weight"][unit, channel, row, column])
        assert found == pytest.approx(total / 5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("scope", ["unit", "layer", "global"])
@pytest.mark.parametrize("criterion", WEIGHING)
def test_a_tenth_of_the_model_is_left_and_travels(bed: Bed, criterion: str, scope: str) -> None:
    setting = bed.setting("one")
    reports = list(federate(tiny(**by(criterion, scope=scope)), setting, InProcess(1)))
    model = final_model(open_store(setting.place.store))
    parameters = [v for n, v in model.items() if "running" not in n and "batches" not in n]
    alive = sum(int((value != 0).sum()) for value in parameters)
    assert alive == pytest.approx(0.1 * sum(value.numel() for value in parameters), rel=0.03)
    assert [report.pruned for report in reports] == [True, False, False]
    assert reports[1].uplink_bytes < 0.2 * reports[0].uplink_bytes
    assert reports[1].mask_bytes > 0 == reports[2].mask_bytes


def test_what_stays_has_the_highest_scores_of_its_layer(bed: Bed) -> None:
    setting = bed.setting("one")
    list(federate(tiny(**by("snip", scope="layer")), setting, InProcess(1)))
    store = open_store(setting.place.store)
    evidence = Journal(store).commits()[1].evidence
    assert evidence is not None
    tensors, about = checkpoint.unpack_state(store.get(evidence.scores))
    assert about["mask_kind"] == "parameters"
    assert len(about["order"]["kept"]) > 4
    for name in about["order"]["kept"]:
        kept = tensors[f"kept/{name}"].bool()
        scores = tensors[f"scores/{name}"]
        if not kept.all():
            assert scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize("criterion", OTHERS)
def test_a_criterion_of_whole_units_is_refused_before_the_run(bed: Bed, criterion: str) -> None:
    with pytest.raises(ConfigError, match=rf"{criterion} scores whole units.*choose lrp"):
        list(federate(tiny(**by(criterion)), bed.setting("one"), InProcess(1)))


def test_a_density_below_norms_and_classifier_is_refused_with_the_least(bed: Bed) -> None:
    with pytest.raises(ConfigError, match=r"method\.pruner\.density: .*must be more than"):
        list(federate(tiny(**by("lrp", density=0.001)), bed.setting("one"), InProcess(1)))


def test_each_unit_keeps_as_many_the_best_of_what_it_reads() -> None:
    scores = torch.rand(6, 5, 3, 3, generator=torch.Generator().manual_seed(1)) ** 8
    for count in (6, 20, 100, 270):
        kept = largest(by_unit(scores), count)
        each = kept.flatten(1).sum(1).tolist()
        assert sum(each) == count
        assert max(each) - min(each) <= 1
        for row, size in zip(range(6), each, strict=True):
            best = sorted(scores[row].flatten().tolist(), reverse=True)[:size]
            assert sorted(scores[row][kept[row]].tolist(), reverse=True) == best
    extra = largest(by_unit(scores), 8).flatten(1).sum(1) == 2
    second = scores.flatten(1).sort(1, descending=True).values[:, 1]
    assert second[extra].min() > second[~extra].max()
