"""Every model of the catalogue: any bands and classes, units that can die, training that holds."""

import numpy as np
import pytest
import torch
from torch import nn

from alone import alone
from fedx_core import masks, state
from fedx_core.config import TrainingConfig
from fedx_core.examples import Examples
from fedx_core.masks import Mask, keep_highest
from fedx_core.methods.base import Local, ModelInfo, load, model_info
from fedx_core.methods.fedx import Method
from fedx_core.models import catalogue
from fedx_core.pixels import Pixels
from fedx_core.structure import unit_graph

SETTINGS = TrainingConfig(
    epochs=1,
    batch_size=2,
    learning_rate=1e-2,
    weight_decay=1e-1,
    flips=False,
    normalisation="reference",
    batch_norm="aggregate",
    eval_batch_size=2,
    device="cpu",
    amp=False,
    threads=1,
    memory_format="channels_last",
)


def described(name: str) -> tuple[nn.Module, ModelInfo, int]:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 4, 3, seed=1)
    graph = unit_graph(model, entry.family, entry.classifier)
    return model, model_info(model, graph, local_batch_norm=False), entry.input_size or 64


@pytest.mark.parametrize("name", catalogue.names())
def test_it_takes_any_bands_and_classes_and_its_weights_come_from_the_seed(name: str) -> None:
    model, _, size = described(name)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 4, size, size)).shape == (1, 3)
    again, other = (catalogue.build(name, 4, 3, seed=seed) for seed in (1, 2))
    assert state.equal(model.state_dict(), again.state_dict())
    assert not state.equal(model.state_dict(), other.state_dict())


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
    local = Local(
        client="a",
        round_index=11,
        model=model,
        info=info,
        downlink=state.as_section(pruned, "model"),
        mask=mask,
        memory={},
        examples=Examples(images, np.array([0, 1, 2, 0]), np.zeros(4, np.int16)),
        label_kind="single",
        pixels=Pixels(
            scale=255.0,
            mean=(0.5,) * 4,
            std=(0.2,) * 4,
            input_size=None,
            memory_format="channels_last",
        ),
        settings=SETTINGS,
        seed=5,
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
    graph = unit_graph(model, entry.family, entry.classifier)
    info = model_info(model, graph, local_batch_norm=True)
    sent = info.shared(model.state_dict())
    assert "bn1.running_var" not in sent
    model.bn1.running_mean.fill_(7)
    values = {f"model/{k}": v for k, v in sent.items()}

    for memory, mean in (({}, 0.0), ({"bn1.running_mean": torch.full((64,), 3.0)}, 3.0)):
        local = alone(model=model, info=info, downlink=values, memory=memory)
        load(local)
        assert model.bn1.running_mean.unique().tolist() == [mean]
        assert model.bn1.running_var.unique().tolist() == [1.0]


def test_a_mask_of_parameters_is_its_own_support() -> None:
    _, info, _ = described("resnet6")
    kept = torch.rand(info.graph.shapes["fc.weight"]) > 0.5
    whole = torch.ones(info.graph.shapes["fc.bias"], dtype=torch.bool)
    support = info.graph.support(Mask("parameters", {"fc.weight": kept, "fc.bias": whole}), "units")
    assert list(support) == ["fc.weight"]
