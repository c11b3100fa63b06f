"""Every part of every kind: arguments unchanged, the same again, at home in a federation."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from alone import alone, ended, info_of
from bed import Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError
from fedx_core.codec.masked import Codec
from fedx_core.methods import fedavg
from fedx_core.methods._parts import PACKAGES
from fedx_core.models import catalogue
from fedx_core.pruners.base import Pruner
from fedx_core.pruning.masks import Mask
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.messages import ServerState, Update

EACH = [(package, name) for package in PACKAGES.values() for name in plugins.names(package)]
NEEDED: dict[str, dict[str, Any]] = {
    "relevance": {"pruning_rate": 0.5, "warmup_rounds": 1, "relevance": {"name": "magnitude"}}
}


def built(package: str, name: str) -> Any:
    return plugins.build(package, name, NEEDED.get(name, {}))


def begun(round_index: int = 0) -> ServerState:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    return ServerState(round_index=round_index, model=state.copy(model.state_dict()))


@pytest.mark.parametrize(("package", "name"), EACH)
def test_an_unknown_parameter_is_refused_and_nothing_is_kept_in_it(package: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name!r} has no parameter 'temperature'"):
        plugins.build(package, name, {**NEEDED.get(name, {}), "temperature": 1})
    part = built(package, name)
    assert part == built(package, name)
    assert part.__doc__


@pytest.mark.parametrize("name", plugins.names("server_steps"))
def test_a_server_step_goes_towards_the_mean_and_keeps_what_it_must_in_memory(name: str) -> None:
    step, desk = built("server_steps", name), info_of()
    before = begun()
    digest = state.digest(before.model)
    for round_index in (1, 2):
        moved = {
            n: v + 0.01 if v.is_floating_point() else v + round_index
            for n, v in before.model.items()
        }
        memory = {**before.memory, "other/part": torch.ones(1)}
        averaged = replace(before, round_index=round_index, model=moved, memory=memory)
        given = state.digest(averaged.model)
        after, again = (step.step(desk, before, averaged) for _ in range(2))
        assert after.round_index == round_index
        assert state.equal(after.model, again.model)
        assert state.equal(after.memory, again.memory)
        assert state.digest(averaged.model) == given
        state.require_same_layout(before.model, after.model)
        assert all("/" in entry for entry in after.memory), "a slash keeps parts' names apart"
        assert "other/part" in after.memory
        assert (after.model["conv1.weight"] > before.model["conv1.weight"]).all()
        assert torch.equal(after.model["bn1.running_mean"], moved["bn1.running_mean"])
        assert step.measured(desk, before, after) == step.measured(desk, before, again)
        before = after
    assert state.digest(begun().model) == digest


@pytest.mark.parametrize("name", plugins.names("local_rules"))
def test_a_local_rule_goes_with_a_mask_and_with_itself(name: str) -> None:
    graph = info_of().graph
    kept = {layer.name: torch.arange(layer.units) % 2 == 0 for layer in graph.layers}
    method = fedavg.Method(local={"name": name}, pruner={"name": "iterative"})
    found = []
    for _ in range(2):
        local = alone(mask=Mask("units", kept))
        update = method.train(replace(local, downlink=masked(local, kept)))
        found.append(state.digest(update.payload))
        dead = ~kept["conv1"]
        assert not update.payload["model/conv1.weight"][dead].any()
        assert update.payload["model/conv1.weight"][~dead].all()
    assert found[0] == found[1]


def masked(local: Any, kept: dict[str, Any]) -> Any:
    support = local.desk.graph.support(Mask("units", kept), "slices")
    return {
        name: value * support[name.removeprefix("model/")]
        if name.removeprefix("model/") in support
        else value
        for name, value in local.downlink.items()
    }


@pytest.mark.parametrize("name", plugins.names("exchanges"))
def test_what_an_exchange_sends_is_what_its_schema_says_and_adds_up(name: str) -> None:
    method, local = fedavg.Method(exchange={"name": name}), alone()
    update, again = method.train(local), method.train(alone())
    assert state.equal(update.payload, again.payload)
    assert update.metrics == again.metrics
    assert set(update.metrics) <= set(method.says)
    up = method.schema(local.desk, None, "units").up
    assert [entry.name for entry in up.entries] == list(update.payload)
    codec = Codec()
    data, _ = codec.encode(update.payload, up, {}, 0)
    found = codec.decode(data, up)
    assert state.equal(found, update.payload)
    server = begun()
    method.check_update(server, replace(update, payload=found), local.desk)
    weight, part = method.contribution(local.desk, update)
    assert weight > 0
    assert set(part) <= set(server.model)
    change = method.change(server, update, local.desk)
    assert set(change) <= set(update.payload)
    settled = method.settle_each(local.desk, server, [update])
    for entry, value in part.items():
        assert torch.equal(settled.model[entry], value), "the mean of one is that one"
    assert method.paper_bytes(local.desk, 1000) <= 8000


def at_home(name: str) -> dict[str, Any]:
    """Settings under which a pruner prunes in the first round."""
    return {
        "none": {"method__name": "fedavg"},
        "relevance": {
            "method__name": "fedavg",
            "method__pruner": {"name": "relevance", **NEEDED["relevance"]},
        },
        "held": {"method__name": "feddst", "method__adjust_share": 0.2},
        "votes": {"method__name": "mpfl", "method__iterations": 2},
        "scored_weights": {
            "method__name": "fedavg",
            "method__pruner": {"name": name, "relevance": {"name": "magnitude"}, "density": 0.2},
        },
    }.get(name, {"method__name": "fedavg", "method__pruner": {"name": name}})


@pytest.mark.parametrize("name", plugins.names("pruners"))
def test_a_pruner_leaves_evidence_a_score_before_it_and_zeros_where_it_pruned(
    name: str, bed: Bed
) -> None:
    settings = tiny(federation__rounds=1, **at_home(name))
    setting = bed.setting()
    (report,) = federate(settings, setting, InProcess(1))
    (_, commit) = Journal(open_store(setting.place.store)).commits()
    assert report.pruned == bool(report.metrics_before_pruning) == (name != "none")
    assert (commit.evidence is not None) == report.pruned
    assert (report.sparsity > 0) == report.pruned
    pruner = settings.method.build("methods").parts.pruner
    assert type(pruner).__module__ == f"fedx_core.pruners.{name}"


@pytest.mark.parametrize("name", plugins.names("pruners"))
def test_a_pruner_chooses_the_same_again_and_changes_no_argument(name: str) -> None:
    desk = alone().desk
    settings = tiny(**at_home(name))
    method = settings.method.build("methods")
    server = method.start(begun().model)
    turn = alone(mask=server.mask)
    variant = "first vote" if name == "votes" else ""
    downlink = method.downlink(server, desk, variant)
    update = method.train(replace(turn, downlink=downlink, variant=variant))
    digests = [state.digest(server.model), state.digest(update.payload)]
    first, second = (ended(method, server, desk, [update]) for _ in range(2))
    assert state.equal(first.model, second.model)
    assert digests == [state.digest(server.model), state.digest(update.payload)]
    pruner: Pruner = method.parts.pruner
    if name == "none":
        assert first.mask is None
        return
    assert first.mask is not None
    assert second.mask is not None
    assert first.mask.digest() == second.mask.digest()
    for entry, kept in pruner.support(desk, first.mask, "slices").items():
        assert not first.model[entry][~kept.expand(first.model[entry].shape)].any(), entry
    names = [layer.name for layer in desk.graph.layers]
    wanted = names if first.mask.kind == "units" else list(pruner.masked(desk))
    assert list(first.mask.entries) == wanted
    assert isinstance(pruner.measured(server, first), dict)


def test_a_value_is_averaged_over_the_clients_whose_masks_keep_it() -> None:
    method, desk = fedavg.Method(), alone().desk
    layer = desk.graph.layers[0]
    server = ServerState(round_index=0, model=state.copy(alone().model.state_dict()))
    whole = {x.name: torch.ones(x.units, dtype=torch.bool) for x in desk.graph.layers}
    updates = []
    for value, examples, gone in ((1.0, 1, 0), (4.0, 2, 1), (9.0, 5, 1)):
        kept = {**whole, layer.name: torch.arange(layer.units) > gone}
        model = {n: torch.full_like(v, value) for n, v in server.model.items()}
        updates.append(
            Update(
                client=str(value),
                examples=examples,
                mask=Mask("units", kept),
                payload=state.as_section(model, "model"),
            )
        )
    after = method.settle_each(desk, server, updates)
    found = after.model[layer.weight]
    assert torch.equal(found[0], server.model[layer.weight][0]), "nobody keeps it"
    assert found[1].unique().tolist() == [1.0], "one client keeps it"
    mean = (1 * 1 + 2 * 4 + 5 * 9) / 8
    assert found[2:].unique().tolist() == pytest.approx([mean])
    threes = {name: torch.full_like(value, 3.0) for name, value in server.model.items()}
    rest = Update(client="all", examples=2, payload=state.as_section(threes, "model"))
    found = method.settle_each(desk, server, [*updates, rest]).model[layer.weight]
    assert found[0].unique().tolist() == [3.0], "who has the server's mask keeps all"
    assert found[1].unique().tolist() == pytest.approx([(1 * 1 + 2 * 3) / 3])
    assert found[2:].unique().tolist() == pytest.approx([(8 * mean + 2 * 3) / 10])
    change = method.change(server, updates[0], desk)
    assert not change[f"model/{layer.weight}"][0].any()
