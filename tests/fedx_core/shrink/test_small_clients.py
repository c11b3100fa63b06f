"""Clients train and score the small model; the server's model keeps its shape."""

import dataclasses
from typing import Any

import pytest
import torch

from bed import Bed, tiny_resnet6
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.clients.plan import Plan, set_up
from fedx_core.images.pixels import Pixels
from fedx_core.methods import base
from fedx_core.models import catalogue
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport, ServerState

GRAPH = catalogue.entry("resnet6").graph(catalogue.build("resnet6", 3, 10, seed=0))
BUFFERS = set(GRAPH.shapes) - GRAPH.parameters


def run(bed: Bed, name: str, **overrides: Any) -> tuple[list[RoundReport], ServerState]:
    setting = bed.setting(name)
    reports = list(federate(tiny_resnet6(federation__rounds=4, **overrides), setting, InProcess(1)))
    store = open_store(setting.place.store)
    return reports, checkpoint.unpack_server_state(store.get(Journal(store).commits()[-1].state))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"training__optimiser_state": "kept", "method__pruning_rate": 0.9},
        {"training__batch_norm": "local", "training__memory_format": "contiguous"},
        {"method__scope": "global", "method__pruning_rate": 0.8, "method__coupled": True},
        {
            "method__warmup_rounds": 1,
            "method__recompute_every": 1,
            "method__recompute_times": 3,
            "method__regrow": True,
            "training__batch_norm": "local",
        },
    ],
)
def test_small_models_learn_what_masked_ones_do(overrides: dict[str, Any], bed: Bed) -> None:
    reports, small = run(bed, "small", training__shrink=True, **overrides)
    wanted, masked = run(bed, "masked", training__shrink=False, **overrides)
    state.require_same_layout(masked.model, small.model)
    assert small.mask is not None
    assert masked.mask is not None
    assert small.mask.digest() == masked.mask.digest()
    # Adam turns the rounding of gradients near zero into steps of its own size.
    distance = state.norm(state.subtract(small.model, masked.model))
    assert 0 < distance < 1e-2 * state.norm(masked.model)
    for name, kept in GRAPH.support(small.mask, "slices").items():
        if name not in BUFFERS or "training__batch_norm" not in overrides:
            assert not small.model[name][~kept.expand(small.model[name].shape)].any()
    for found, other in zip(reports, wanted, strict=True):
        assert found.traffic == other.traffic
        assert found.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert found.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-2)


def test_codecs_carry_small_models_alike_and_slices_weigh_least(bed: Bed) -> None:
    found = {c: run(bed, c, codec__name=c, training__shrink=True) for c in ("dense", "masked")}
    found["sliced"] = run(bed, "sliced", codec__name="sliced", training__shrink=True)
    digests = {state.digest(final.model) for _, final in found.values()}
    assert len(digests) == 1
    weights = {name: reports[-1].wire_bytes for name, (reports, _) in found.items()}
    assert weights["sliced"] < weights["masked"] < weights["dense"]


def test_an_update_is_dense_and_its_dead_entries_are_what_was_sent(bed: Bed) -> None:
    _, final = run(bed, "run", training__shrink=True, training__batch_norm="local")
    desk = set_up(plan(training__batch_norm="local"))
    support = desk.graph.support(final.mask, "slices")
    store = open_store(bed.setting("run").place.memory)
    memory, _ = checkpoint.unpack_state(store.get(store_memory(bed)))
    dead = ~support["bn1.running_var"]
    assert dead.any()
    # Statistics of dead channels stay what they were when the units died.
    assert (memory["bn1.running_var"][dead] > 0).all()
    assert not final.model["bn1.weight"][dead].any()


def store_memory(bed: Bed) -> Any:
    commits = Journal(open_store(bed.setting("run").place.store)).commits()
    return commits[-1].holdings["client-00"].memory


def plan(**overrides: Any) -> Plan:
    settings = tiny_resnet6(training__shrink=True, **overrides)
    pixels = Pixels(scale=255.0, mean=(0.5,) * 3, std=(0.2,) * 3, input_size=None,
                    memory_format="contiguous")  # fmt: skip
    return Plan(
        model=settings.model.name,
        bands=3,
        classes=10,
        label_kind="single",
        pixels=pixels,
        training=settings.training,
        method=settings.method,
        codec=settings.codec.down,
    )


def test_a_small_model_is_built_once_for_each_mask() -> None:
    desk = set_up(plan())
    scores = {x.name: torch.rand(x.units) for x in desk.graph.layers}
    half, tenth = keep_highest(scores, 0.5), keep_highest(scores, 0.9)
    again = Mask("units", {name: kept.clone() for name, kept in half.entries.items()})
    model = desk.model_for(half)
    assert desk.model_for(again) is model
    assert desk.model_for(tenth) is not model
    assert desk.model_for(None) is desk.model
    assert desk.model_for(keep_highest(scores, 0.0)) is desk.model
    single = Mask("parameters", {"fc.weight": torch.zeros(10, 128, dtype=torch.bool)})
    assert desk.model_for(single) is desk.model


def test_without_the_setting_clients_train_the_dense_model() -> None:
    shrinking = plan()
    desk = set_up(
        dataclasses.replace(
            shrinking, training=dataclasses.replace(shrinking.training, shrink=False)
        )
    )
    scores = {x.name: torch.rand(x.units) for x in desk.graph.layers}
    assert desk.model_for(keep_highest(scores, 0.5)) is desk.model


@pytest.mark.parametrize("masking", ["row", "row_and_scale"])
def test_the_papers_masks_are_refused_before_a_run_begins(bed: Bed, masking: str) -> None:
    settings = tiny_resnet6(method__mask=masking, training__shrink=True)
    with pytest.raises(ConfigError, match=r"method\.mask.*set training\.shrink to false"):
        next(federate(settings, bed.setting(), InProcess(1)))
    assert not (bed.runs / "run" / "store").exists()


def test_fedavg_has_nothing_to_leave_out() -> None:
    assert base.Method().keeps_dead_units_at_zero
