import dataclasses

import torch

from fedx_core.models import catalogue
from fedx_core.relevance.random import Criterion

ENTRY = catalogue.entry("resnet6")
MODEL = catalogue.build("resnet6", 3, 4, seed=1)
GRAPH = catalogue.entry("resnet6").graph(MODEL)


def test_a_layers_draws_do_not_depend_on_the_other_layers() -> None:
    every = Criterion().score(MODEL, GRAPH, ENTRY, None, seed=3, batch_size=1)
    last = dataclasses.replace(GRAPH, layers=GRAPH.layers[-1:])
    alone = Criterion().score(MODEL, last, ENTRY, None, seed=3, batch_size=1)
    name = GRAPH.layers[-1].name
    assert torch.equal(alone[name], every[name])


def test_another_seed_and_another_layer_draw_other_numbers() -> None:
    first = Criterion().score(MODEL, GRAPH, ENTRY, None, seed=3, batch_size=1)
    second = Criterion().score(MODEL, GRAPH, ENTRY, None, seed=4, batch_size=1)
    assert not torch.equal(first["conv1"], second["conv1"])
    assert not torch.equal(first["conv1"], first["layer1.0.conv1"])


def test_draws_are_uniform() -> None:
    scores = Criterion().score(MODEL, GRAPH, ENTRY, None, seed=3, batch_size=1)
    drawn = torch.cat(list(scores.values()))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.05
    assert abs(float(drawn.var()) - 1 / 12) < 0.02


def test_torchs_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    Criterion().score(MODEL, GRAPH, ENTRY, None, seed=3, batch_size=1)
    assert torch.equal(torch.random.get_rng_state(), before)
