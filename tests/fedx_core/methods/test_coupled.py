"""``coupled``: the layers that write a residual channel are pruned together."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alone import desk_of, pruned
from fedx_core.base import state
from fedx_core.methods.fedx import Method
from fedx_core.models import catalogue
from fedx_core.pruning import masks
from fedx_core.pruning.masks import keep_highest
from fedx_core.pruning.structure import UnitGraph
from fedx_core.wire.messages import ServerState


def graph_of(name: str) -> tuple[torch.nn.Module, UnitGraph]:
    entry = catalogue.entry(name)
    model = catalogue.build(name, 3, 10, seed=0)
    return model, entry.graph(model)


MODEL, GRAPH = graph_of("resnet18")
GROUPS = GRAPH.coupled


def test_groups_are_the_stem_or_downsample_with_the_last_convolutions_of_their_stage() -> None:
    assert GROUPS[0] == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert GROUPS[3] == ("layer4.0.downsample.0", "layer4.0.conv2", "layer4.1.conv2")
    assert len(GROUPS) == 4
    assert graph_of("convnextv2_atto")[1].coupled == ()


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 0.99]),
    scope=st.sampled_from(["layer", "global"]),
    min_keep=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_rates_are_kept_and_writers_agree(
    rate: float, scope: Any, min_keep: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {x.name: torch.rand(x.units, generator=generator) for x in GRAPH.layers}
    coupled = masks.couple(scores, GROUPS)
    mask = masks.uncouple(
        keep_highest(coupled, rate, scope=scope, min_keep=min_keep), GROUPS, scores
    )
    GRAPH.check(mask)
    assert list(mask.entries) == list(scores)
    for group in GROUPS:
        for name in group:
            assert torch.equal(mask.entries[name], mask.entries[group[0]])
    dead = {name: int((~kept).sum()) for name, kept in mask.entries.items()}
    if scope == "layer":
        for name, kept in mask.entries.items():
            wanted = min(math.floor(rate * len(kept) + 1e-9), len(kept) - min_keep)
            assert dead[name] == wanted
    else:
        total = sum(map(len, coupled.values()))
        wanted = min(math.floor(rate * total + 1e-9), total - min_keep * len(coupled))
        assert sum(dead[name] for name in coupled) == wanted
    assert all(len(kept) - dead[name] >= min_keep for name, kept in mask.entries.items())


def test_the_channel_with_the_lowest_sum_goes_though_no_writer_ranks_it_last() -> None:
    scores = {x.name: torch.full((x.units,), 9.0) for x in GRAPH.layers}
    first, second, third = GROUPS[0]
    for name, at in ((first, 0), (second, 1), (third, 2)):
        scores[name][at] = 5.0
        scores[name][3] = 6.0
    mask = masks.uncouple(keep_highest(masks.couple(scores, GROUPS), 1 / 64), GROUPS, scores)
    for name in GROUPS[0]:
        assert (~mask.entries[name]).nonzero().reshape(-1).tolist() == [3]


def test_whole_residual_channels_go_and_less_is_left() -> None:
    info = desk_of(MODEL, GRAPH)
    start = ServerState(round_index=1, model=state.copy(MODEL.state_dict()))
    generator = torch.Generator().manual_seed(0)
    scores = {x.name: torch.rand(x.units, generator=generator) for x in GRAPH.layers}
    left = {}
    for coupled in (False, True):
        method = Method(pruning_rate=0.9, warmup_rounds=1, coupled=coupled)
        found = pruned(method, start, info, scores)
        assert found.mask is not None
        support = GRAPH.support(found.mask, "slices")
        left[coupled] = sum(
            masks.kept_count(support[n], GRAPH.shapes[n]) if n in support else v.numel()
            for n, v in MODEL.state_dict().items()
        )
        if coupled:
            alive = int(support["fc.weight"].sum())
            assert alive == 512 - math.floor(0.9 * 512)
    assert left[True] < 0.7 * left[False]


def test_later_events_keep_dead_channels_dead_in_all_writers() -> None:
    info = desk_of(MODEL, GRAPH)
    method = Method(
        pruning_rate=0.6, warmup_rounds=1, recompute_every=1, recompute_times=2, coupled=True
    )
    server = ServerState(round_index=1, model=state.copy(MODEL.state_dict()))
    dead = None
    for round_index in (1, 2):
        scores = {x.name: torch.rand(x.units) for x in GRAPH.layers}
        before = ServerState(round_index=round_index, model=server.model, mask=server.mask)
        server = pruned(method, before, info, scores)
        assert server.mask is not None
        for group in GROUPS:
            kept = [server.mask.entries[name] for name in group]
            assert all(torch.equal(kept[0], other) for other in kept)
        if dead is not None:
            assert not (server.mask.entries["conv1"] & dead).any()
        dead = ~server.mask.entries["conv1"]
