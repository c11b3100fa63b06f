import pytest

from bed import Bed, tiny
from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.record.journal import Journal
from fedx_core.relevance.batch_norm_scale import Criterion
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store


@pytest.mark.parametrize("name", ["resnet6", "resnet18", "resnet50"])
def test_a_unit_scores_the_size_of_the_scale_behind_it(name: str) -> None:
    model = catalogue.build(name, 3, 4, seed=1)
    model.bn1.weight.data[:3] = model.bn1.weight.data.new_tensor([-2.5, 0.0, 0.5])
    model.layer2[0].downsample[1].weight.data[7] = -3.0
    graph = catalogue.entry("resnet6").graph(model)
    found = Criterion().score(model, graph, catalogue.entry(name), None, seed=0, batch_size=1)
    assert found["conv1"][:3].tolist() == [2.5, 0.0, 0.5]
    assert float(found["layer2.0.downsample.0"][7]) == 3.0
    assert list(found) == [layer.name for layer in graph.layers]


def test_a_run_prunes_by_it(bed: Bed) -> None:
    settings = tiny(method__relevance={"name": "batch_norm_scale"}, method__warmup_rounds=1)
    reports = list(federate(settings, bed.setting(), InProcess(1)))
    assert round(reports[-1].sparsity, 3) == 0.5


@pytest.mark.parametrize("model", ["convnextv2_atto"])
def test_a_model_without_batch_norm_is_refused_before_a_run_is_claimed(
    model: str, bed: Bed
) -> None:
    settings = tiny(method__relevance={"name": "batch_norm_scale"}, model__name=model)
    with pytest.raises(ConfigError, match=r"stem\.0 has none; take a ResNet"):
        next(federate(settings, bed.setting(), InProcess(1)))
    assert Journal(open_store(bed.setting().place.store)).run() is None
