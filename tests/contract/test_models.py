"""Every model of the catalogue: any bands and classes, units that can die, training that holds."""

import numpy as np
import pytest
import torch
from torch import nn

from alone import alone, desk_of
from fedx_core.base import plugins, state
from fedx_core.desk.desk import Desk
from fedx_core.images.examples import Examples
from fedx_core.methods.base import load
from fedx_core.methods.fedx import Method
from fedx_core.models import catalogue
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.relevance._streamline import streamline
from fedx_core.relevance.base import copy_to_explain

SETTINGS = {"batch_size": 2, "learning_rate": 1e-2, "weight_decay": 1e-1, "flips": False}


def described(name: str) -> tuple[nn.Module, Desk, int]:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 4, 3, seed=1)
    graph = entry.graph(model)
    return model, desk_of(model, graph, bands=4, **SETTINGS), entry.input_size or 64


@pytest.mark.parametrize("name", catalogue.names())
def test_it_takes_any_bands_and_classes_and_its_weights_come_from_the_seed(name: str) -> None:
    model, _, size = described(name)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 4, size, size)).shape == (1, 3)
    again, other = (catalogue.build(name, 4, 3, seed=seed) for seed in (1, 2))
    assert state.equal(model.state_dict(), again.state_dict())
    assert not state.equal(model.state_dict(), other.state_dict())


def test_every_family_has_models_of_its_own_and_no_name_twice() -> None:
    variants = [list(plugins.load("models", family).variants) for family in plugins.names("models")]
    assert all(variants)
    assert sorted(catalogue.names()) == sorted(name for names in variants for name in names)
    assert len(set(catalogue.names())) == len(catalogue.names())
    for family, names in zip(plugins.names("models"), variants, strict=True):
        assert {catalogue.entry(name).family for name in names} == {family}


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("name", catalogue.names())
def test_the_streams_of_a_family_name_rows_and_columns_that_its_weights_have(
    name: str, heads: bool
) -> None:
    with torch.device("meta"):
        model = catalogue.entry(name).build(4, 3)
    graph = catalogue.entry(name).graph(model, heads=heads)
    layers = {layer.name: layer for layer in graph.layers}
    assert catalogue.entry(name).classifier not in layers
    for stream in graph.streams:
        for writer, first in stream.writers:
            assert first + stream.channels <= graph.shapes[layers[writer].weight][0]
        for reader in stream.readers:
            assert graph.shapes[reader][1] == stream.channels
    for layer in graph.layers:
        rows = graph.shapes[layer.weight][0]
        assert {graph.shapes[scalar] for scalar in layer.scalars} <= {(rows,)}
        assert layer.measured_at in dict(model.named_modules())


@pytest.mark.parametrize("rounding", [False, True])
@pytest.mark.parametrize("name", catalogue.names())
def test_a_copy_that_runs_quicker_answers_as_the_model_does(name: str, rounding: bool) -> None:
    model, info, size = described(name)
    twin = copy_to_explain(model)
    streamline(twin, info.graph)
    catalogue.entry(name).quicken(twin, info.graph, rounding=rounding)
    images = torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(twin(images), model.eval()(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", catalogue.names())
def test_the_groups_of_lrp_cover_every_unit_layer_once(name: str) -> None:
    _, info, _ = described(name)
    groups = catalogue.entry(name).lrp_groups
    for layer in info.graph.layers:
        owners = [group for group in groups if layer.name.startswith(group)]
        assert len(owners) == 1, layer.name


@pytest.mark.parametrize("name", catalogue.names())
def test_dead_entries_stay_zero_at_every_step_with_their_gradients_and_moments(name: str) -> None:
    model, info, size = described(name)
    generator = torch.Generator().manual_seed(0)
    scores = {x.name: torch.rand(x.units, generator=generator) for x in info.graph.layers}
    mask = keep_highest(scores, 0.5)
    support = info.graph.support(mask, "slices")
    pruned = masks.apply(model.state_dict(), support)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 4, size, size), dtype=np.uint8)
    local = alone(
        desk=info,
        round_index=11,
        model=model,
        downlink=state.as_section(pruned, "model"),
        mask=mask,
        examples=Examples(images, np.array([0, 1, 2, 0]), np.zeros(4, np.int16)),
    )
    optimisers: list[torch.optim.Adam] = []
    original = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: object) -> None:
        original(self)
        optimisers.append(self)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name in support:
                dead = ~support[parameter_name].expand(parameter.shape)
                assert not parameter.detach()[dead].any(), parameter_name
                assert parameter.grad is not None
                assert not parameter.grad[dead].any(), parameter_name
                moments = self.state[parameter]
                assert not moments["exp_avg"][dead].any(), parameter_name
                assert not moments["exp_avg_sq"][dead].any(), parameter_name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", watched)
        update = Method(pruning_rate=0.5).train(local)
    assert len(optimisers) == 2
    trained = state.section(update.payload, "model")
    for entry, kept in support.items():
        assert not trained[entry][~kept.expand(trained[entry].shape)].any(), entry
    assert not state.equal(trained, pruned)
    assert torch.isfinite(torch.cat([v.flatten().float() for v in trained.values()])).all()


def test_loading_keeps_local_statistics_and_starts_them_where_there_are_none() -> None:
    entry = catalogue.entry("resnet6")
    model = catalogue.build("resnet6", 4, 3, seed=1)
    graph = entry.graph(model)
    info = desk_of(model, graph, batch_norm="local")
    sent = info.shared(model.state_dict())
    assert "bn1.running_var" not in sent
    model.bn1.running_mean.fill_(7)
    values = {f"model/{k}": v for k, v in sent.items()}

    for memory, mean in (({}, 0.0), ({"bn1.running_mean": torch.full((64,), 3.0)}, 3.0)):
        local = alone(model=model, desk=info, downlink=values, memory=memory)
        load(local)
        assert model.bn1.running_mean.unique().tolist() == [mean]
        assert model.bn1.running_var.unique().tolist() == [1.0]


def test_a_mask_of_parameters_is_its_own_support() -> None:
    _, info, _ = described("resnet6")
    kept = torch.rand(info.graph.shapes["fc.weight"]) > 0.5
    whole = torch.ones(info.graph.shapes["fc.bias"], dtype=torch.bool)
    support = info.graph.support(Mask("parameters", {"fc.weight": kept, "fc.bias": whole}), "units")
    assert list(support) == ["fc.weight"]


def test_threads_that_build_at_once_draw_the_same_weights() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def drawn(seed: int) -> str:
        return state.digest(catalogue.build("resnet6", 3, 10, seed % 2).state_dict())

    wanted = {seed: drawn(seed) for seed in (0, 1)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(drawn, range(40)))
    assert found == [wanted[seed % 2] for seed in range(40)]
