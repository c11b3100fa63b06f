"""FedLP for unequal clients: who holds what, what travels, and what becomes of it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alone import alone, info_of
from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.methods import base
from fedx_core.methods.base import Turn
from fedx_core.methods.fedlp_hetero import Method, shallow
from fedx_core.models import catalogue
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Commit
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import RoundReport, ServerState, Update

INFO = info_of()


def held(name: str) -> bool:
    """Whether a client of one stage holds an entry of ResNet6."""
    return name.startswith(("conv1.", "bn1.", "layer1."))


def test_a_small_model_is_the_first_stages_behind_a_new_classifier() -> None:
    whole = catalogue.build("resnet18", 3, 4, seed=1).eval()
    small = shallow(whole, 2, seed=3).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    modules = dict(whole.named_children())
    x = images
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2"):
        x = modules[name](x)
    head = small.get_submodule("fc")
    assert isinstance(head, torch.nn.Linear)
    wanted = functional.linear(x.mean((2, 3)), head.weight, head.bias)
    assert torch.allclose(small(images), wanted, atol=1e-5)
    assert head.weight.shape == (4, 128)
    assert modules["fc"].weight.shape == (4, 512)
    again, other = (shallow(whole, 2, seed=s).get_submodule("fc").weight for s in (3, 4))
    assert torch.equal(again, head.weight)
    assert not torch.equal(other, head.weight)


def turn(client: str, place: int, purpose: Any = "train") -> Turn:
    return Turn(client=client, place=place, round_index=1, purpose=purpose, returning=False)


def test_depths_are_dealt_out_in_turn_unless_a_client_is_named() -> None:
    deep = info_of("resnet18")
    dealt = [Method().variant(turn("c", place), deep) for place in range(6)]
    assert dealt == ["", "3", "2", "1", "", "3"]
    chosen = Method(depths=(1, 4), by_client={"b": 2})
    assert [chosen.variant(turn(*who), deep) for who in (("a", 0), ("b", 1), ("c", 3))] == [
        "1",
        "2",
        "",
    ]
    assert chosen.variant(turn("a", 0, "evaluate"), deep) == ""


def test_a_small_models_classifier_stays_with_its_client_and_goes_on() -> None:
    sent = {n: v for n, v in alone().downlink.items() if held(n.removeprefix("model/"))}
    first = Method().train(alone(downlink=sent, variant="1"))
    assert list(first.payload) == list(sent)
    assert not torch.equal(first.payload["model/conv1.weight"], sent["model/conv1.weight"])
    assert first.memory is not None
    assert {name: tuple(value.shape) for name, value in first.memory.items()} == {
        "head/weight": (4, 64),
        "head/bias": (4,),
    }
    again = Method().train(alone(downlink=sent, variant="1"))
    assert state.equal(again.payload, first.payload)
    assert again.memory is not None
    assert state.equal(again.memory, first.memory)
    kept = dict(first.memory)
    second = Method().train(alone(downlink=sent, variant="1", memory=kept, round_index=2))
    assert second.memory is not None
    step = (second.memory["head/weight"] - first.memory["head/weight"]).abs().max()
    assert 0 < float(step) < 0.004, "three steps of Adam at 0.001 from where it was"
    assert state.equal(kept, first.memory)


def test_batch_norms_statistics_may_stay_with_a_shallow_client_too() -> None:
    info = info_of(batch_norm="local")
    sent = {
        n: v
        for n, v in alone().downlink.items()
        if held(n.removeprefix("model/")) and n.removeprefix("model/") not in info.local
    }
    update = Method().train(alone(desk=info, downlink=sent, variant="1"))
    assert list(update.payload) == list(sent)
    assert update.memory is not None
    assert int(update.memory["layer1.0.bn2.num_batches_tracked"]) == 3
    assert "layer2.0.bn2.running_mean" not in update.memory


def test_a_client_of_all_stages_does_what_fedavg_does() -> None:
    ours, theirs = Method().train(alone()), base.Method().train(alone())
    assert state.equal(ours.payload, theirs.payload)
    assert ours.metrics["client_held_share"] == 1


def test_a_layer_is_the_plain_mean_of_those_that_hold_it() -> None:
    def part(value: float, *names: str) -> Update:
        payload: dict[str, Tensor] = {f"model/{name}": torch.full((2,), value) for name in names}
        return Update(client="c", payload=payload, examples=int(value))

    server = ServerState(
        round_index=2, model={n: torch.zeros(2) for n in ("conv1", "layer1", "layer2", "fc")}
    )
    before = state.copy(server.model)
    updates = [
        part(1.0, "conv1"),
        part(5.0, "conv1", "layer1"),
        part(9.0, "conv1", "layer1", "layer2"),
    ]
    after = Method().settle_each(INFO, server, updates)
    assert {name: value.tolist()[0] for name, value in after.model.items()} == {
        "conv1": 5.0,
        "layer1": 7.0,
        "layer2": 9.0,
        "fc": 0.0,
    }
    assert after.round_index == 3
    assert state.equal(server.model, before)


def run(bed: Bed, **changed: Any) -> tuple[list[Commit], list[RoundReport], Setting]:
    settings = tiny(**{"method__name": "fedlp_hetero", "federation__rounds": 2, **changed})
    setting = bed.setting()
    reports = list(federate(settings, setting, InProcess(1)))
    return Journal(open_store(setting.place.store)).commits(), reports, setting


def test_each_client_exchanges_the_stages_it_holds_and_scores_the_whole_model(bed: Bed) -> None:
    commits, reports, setting = run(bed, method__by_client={"client-02": 1})
    store = open_store(setting.place.store)
    model = checkpoint.unpack_server_state(store.get(commits[-1].state)).model
    sizes = {name: value.numel() * value.element_size() for name, value in model.items()}
    whole = HEADER.size + sum(sizes.values())
    part = HEADER.size + sum(size for name, size in sizes.items() if held(name))
    for report in reports:
        for client, wanted in (("client-00", whole), ("client-01", part), ("client-02", part)):
            assert report.traffic[client].downlink == wanted
            assert report.traffic[client].uplink == wanted
        last = report.round_index == 2
        assert {t.evaluation for t in report.traffic.values()} == {whole if last else 0}
        learned = {n: v for n, v in sizes.items() if "running" not in n and "num_" not in n}
        parts = sum(size for name, size in learned.items() if held(name))
        assert report.paper_bytes == 2 * (sum(learned.values()) + 2 * parts)
        assert 0.24 < report.method_metrics["client_held_share"] < 0.6


def test_the_journal_names_all_downlinks_of_a_round_and_all_are_forgotten(bed: Bed) -> None:
    _, _, setting = run(bed)
    store = open_store(setting.place.store)
    opened = Journal(store).opened(2)
    assert opened is not None
    assert len(opened.other_bases) == 1
    for base_ref in (opened.base, *opened.other_bases):
        assert store.read(base_ref.key) is None
    list(federate(tiny(method__name="fedavg", federation__rounds=1), bed.setting("avg"),
                  InProcess(1)))  # fmt: skip
    alike = Journal(open_store(bed.setting("avg").place.store)).opened(1)
    assert alike is not None
    assert alike.other_bases == ()


def test_models_without_stages_and_depths_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="behind the stages of a ResNet"):
        Method().check(info_of("convnextv2_atto"))
    Method(depths=(1, 2)).check(INFO)
    for wrong in (Method(depths=(3,)), Method(by_client={"a": 0})):
        with pytest.raises(ConfigError, match="must lie in 1 to 2"):
            wrong.check(INFO)
