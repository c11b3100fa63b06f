"""FedSense-style: guidance of steps, bits of payloads, distillation, against slow restatements."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alone import alone
from bed import NARROW, Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError, FedXError
from fedx_core.clients.client import Place
from fedx_core.codec import signs
from fedx_core.desk.local import Local
from fedx_core.learning import similarity
from fedx_core.learning.similarity import Pupil
from fedx_core.local_rules import guided
from fedx_core.methods import fedavg, fedsense
from fedx_core.methods.base import load
from fedx_core.models import catalogue
from fedx_core.pruning.masks import Mask
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport, ServerState, Update
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

PUBLIC = {"datasets__synthetic__reference__public": 36}
RATE = 0.05
PLAIN = {
    "optimiser": "sgd", "learning_rate": RATE, "weight_decay": 0.0, "flips": False,
    "memory_format": "contiguous", "batch_size": 12,
}  # fmt: skip
"""One step of plain gradient descent on all twelve images."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    for stage in (prepare, partition, reference):
        stage(tiny(**PUBLIC), "synthetic", root)
    return root


def settings_for(**overrides: Any) -> Any:
    return tiny(
        **{
            "method__name": "fedsense", "method__ramp": 1, "federation__rounds": 2,
            "training__batch_norm": "recalibrate", "training__objective": {"name": "simclr"},
            **PUBLIC, **overrides,
        }
    )  # fmt: skip


def run(
    bed: Bed, name: str, carrier: Any = None, *, resume: bool = False, **overrides: Any
) -> list[RoundReport]:
    setting = bed.setting(name)
    return list(
        federate(settings_for(**overrides), setting, carrier or InProcess(1), resume=resume)
    )


def ending(bed: Bed, name: str) -> tuple[str, list[str]]:
    """What a run has come to: its model, and what its clients keep."""
    store = open_store(bed.setting(name).place.store)
    holdings = Journal(store).commits()[-1].holdings
    kept = [h.memory.sha256 for _, h in sorted(holdings.items()) if h.memory]
    return state.digest(final_model(store)), kept


def turned(seed: int, **changed: Any) -> Local:
    """A client that was sent another model the last time, near to this one."""
    local = alone(**changed)
    random = torch.Generator().manual_seed(seed)
    before = {
        name: value + 0.01 * torch.randn(value.shape, generator=random)
        for name, value in local.model.state_dict().items()
        if name in local.desk.graph.parameters
    }
    return replace(local, memory=state.as_section(before, "received"))


def slow_step(local: Local, rho: float, strength: float) -> dict[str, Tensor]:
    """Take w - eta grad(L + lambda L_align) at w + e, with e = rho (v' - v) / ||v' - v||."""
    sent = state.section(local.downlink, "model")
    before = state.section(local.memory, "received")
    length = math.sqrt(sum(float((v - sent[n]).double().square().sum()) for n, v in before.items()))
    moved = {n: v + rho * (before[n] - v) / length if n in before else v for n, v in sent.items()}
    student, server = (catalogue.build("resnet6", 3, 4, seed=1) for _ in range(2))
    student.load_state_dict(moved)
    server.load_state_dict(sent)
    inputs = local.desk.plan.pixels.to_input(local.examples.images, torch.device("cpu"))
    logits, guide = student.train()(inputs), server.train()(inputs).detach()
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(local.examples.labels))
    cosines = [
        (z @ g) / (z.square().sum().sqrt() * g.square().sum().sqrt())
        for z, g in zip(logits, guide, strict=True)
    ]
    loss = loss + strength * sum(1 - c for c in cosines) / len(cosines)
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    names = [name for name, _ in student.named_parameters()]
    return {n: sent[n] - RATE * g for n, g in zip(names, gradients, strict=True)}


@pytest.mark.parametrize(("rho", "align"), [(0.1, 0.0), (0.0, 0.5), (0.1, 0.5)])
def test_a_guided_step_is_that_of_the_equation(rho: float, align: float) -> None:
    local = turned(3, training=PLAIN, round_index=3)
    method = fedavg.Method(local={"name": "guided", "rho": rho, "align": align, "ramp": 4})
    update = method.train(local)
    wanted = slow_step(local, rho, align * 2 / 4)
    plain = fedavg.Method().train(turned(3, training=PLAIN)).payload
    for name, value in wanted.items():
        found = update.payload[f"model/{name}"]
        torch.testing.assert_close(found, value, atol=2e-6, rtol=1e-4)
    # At the server's own weights nothing is to be aligned; up the loss there is.
    same = [torch.allclose(plain[f"model/{n}"], v, atol=1e-5, rtol=1e-3) for n, v in wanted.items()]
    assert all(same) == (rho == 0)


def test_the_first_turn_and_a_server_that_stood_still_leave_steps_as_they_are() -> None:
    rule = guided.Rule(rho=0.1, align=0.0)
    local = alone()
    assert rule.rule(local) is None
    kept = rule.kept(local)
    assert set(kept) == {f"received/{n}" for n in local.desk.graph.parameters}
    assert rule.rule(replace(local, memory=kept)) is None
    assert [guided.Rule(align=0.5, ramp=4).strength(r) for r in (1, 2, 5, 9)] == [
        0,
        0.125,
        0.5,
        0.5,
    ]
    assert guided.Rule(align=0.5, ramp=0).strength(1) == 0.5
    assert guided.Rule(rho=0.0).kept(local) == {}


def test_what_a_mask_leaves_out_is_no_direction_to_look_in() -> None:
    local = turned(3)
    kept = {x.name: torch.arange(x.units) % 2 == 0 for x in local.desk.graph.layers}
    mask = Mask("units", kept)
    support = local.desk.graph.support(mask, "slices")
    found = guided.Rule(rho=0.1).ascent(replace(local, mask=mask))
    for name, value in found.items():
        if name in support:
            assert not value[~support[name].expand(value.shape)].any(), name
    assert state.norm(found) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("bits", "bytes_up"), [(1, 39_514), (2, 78_883), (4, 157_621), (8, 315_098), (32, 1_259_880)]
)
def test_bytes_are_those_of_the_formula_both_ways(bits: int, bytes_up: int, bed: Bed) -> None:
    sizes = [p.numel() for p in catalogue.build("resnet6", 3, 10, seed=1).parameters()]
    dense = 64 + 4 * sum(sizes)
    formula = 64 + sum(math.ceil(size * bits / 8) + 4 for size in sizes) if bits < 32 else dense
    assert formula == bytes_up
    first, second = run(
        bed, "run", method__bits=bits, method__down_bits=bits, method__distil="off",
        training__objective={"name": "supervised"}, datasets__synthetic__reference__public=0,
        model={"name": "resnet6"},
    )  # fmt: skip
    for report, down in ((first, dense), (second, formula)):
        for sent in report.traffic.values():
            assert (sent.uplink, sent.downlink) == (formula, down)
    paper = math.ceil(sum(sizes) * bits / 8) + 4 * len(sizes) if bits < 32 else 4 * sum(sizes)
    assert first.paper_bytes == 3 * 2 * paper


def test_first_weights_of_heads_come_from_the_seed_too(data: Path, tmp_path: Path) -> None:
    bed = Bed(data, tmp_path)
    first, second = run(bed, "seed", federation__first_model="seed", method__down_bits=1)
    assert first.downlink_bytes == 0
    assert second.downlink_bytes == second.uplink_bytes > 0
    run(bed, "whole", method__down_bits=1)
    assert ending(bed, "seed")[0] == ending(bed, "whole")[0]


@dataclass
class Losing(InProcess):
    """Loses a client's first try in each round, after it has trained."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = super().do(job, place)
        if (job.client, job.purpose, job.attempt) == ("client-01", "train", 0):
            return ClientFailure(client=job.client, attempt=0, reason="away")
        return outcome


@pytest.mark.parametrize("down_bits", [32, 1])
def test_workers_retries_and_resumes_end_in_the_same_bits(
    down_bits: int, data: Path, tmp_path: Path
) -> None:
    bed, own = Bed(data, tmp_path), {"method__down_bits": down_bits}
    run(bed, "whole", **own)
    run(bed, "threads", InProcess(2), **own)
    run(bed, "again", Losing(1), federation__attempts=2, **own)
    going = federate(settings_for(**own), bed.setting("parts"), InProcess(1))
    next(going)
    going.close()
    run(bed, "parts", resume=True, **own)
    whole = ending(bed, "whole")
    assert ending(bed, "threads") == ending(bed, "parts") == whole
    assert ending(bed, "again") == whole


@pytest.mark.parametrize(
    ("changes", "keeps"),
    [
        ({}, {"received", "residual"}),
        ({"method__feedback": False}, {"received"}),
        ({"method__bits": 4, "method__rho": 0.0}, {"residual"}),
        ({"method__bits": 32, "method__align": 0.0}, {"received"}),
        ({"training__objective": {"name": "byol"}}, {"received", "residual", "objective"}),
    ],
)
def test_clients_keep_what_they_were_sent_and_what_they_left_out(
    changes: dict[str, Any], keeps: set[str], data: Path, tmp_path: Path
) -> None:
    bed = Bed(data, tmp_path)
    run(bed, "run", method__distil="off", federation__rounds=1, **changes)
    place = bed.setting("run").place
    holdings = Journal(open_store(place.store)).commits()[-1].holdings
    for holding in holdings.values():
        assert holding.memory is not None
        kept, _ = checkpoint.unpack_state(open_store(place.memory).get(holding.memory))
        assert {name.partition("/")[0] for name in kept} == keeps


def test_one_bit_leaves_as_much_as_its_contraction_says() -> None:
    change = torch.randn(500, generator=torch.Generator().manual_seed(2))
    _, received = signs.Codec().compress({"model/w": change}, 0)
    left = float((change - received["model/w"]).square().sum())
    norm, ones = float(change.square().sum()), float(change.abs().sum())
    assert left == pytest.approx(norm - ones**2 / 500, rel=1e-4)


@dataclass
class Bench:
    """A server's desk with public images, a state, and clients' updates of one round."""

    desk: Any
    before: ServerState
    updates: list[Update]


@pytest.fixture
def bench(data: Path, tmp_path: Path) -> Callable[..., Bench]:
    from fedx_core.rounds import start

    def built(**overrides: Any) -> Bench:
        settings = settings_for(**overrides)
        setting = Bed(data, tmp_path).setting()
        found = start.load(setting, settings)
        desk = replace(start.check(settings, found), public=found.public, seed=4)
        before = ServerState(round_index=0, model=state.copy(desk.model.state_dict()))
        updates = []
        for place in range(3):
            random = torch.Generator().manual_seed(place)
            model = {
                n: v + 0.02 * torch.randn(v.shape, generator=random)
                for n, v in before.model.items()
                if n in desk.graph.parameters
            }
            payload = state.as_section(model, "model")
            updates.append(Update(client=f"c{place}", payload=payload, examples=10 + place))
        return Bench(desk, before, updates)

    return built


def test_the_server_comes_nearer_to_what_its_clients_find_alike(
    bench: Callable[..., Bench],
) -> None:
    found = bench(method__distil_rate=1e-3)
    method = found.desk.method
    given = [state.digest(u.payload) for u in found.updates]
    after = method.settle_each(found.desk, found.before, found.updates)
    again = method.settle_each(found.desk, found.before, found.updates)
    assert state.equal(after.model, again.model)
    assert given == [state.digest(u.payload) for u in found.updates]
    said = method.measured(found.before, after, found.desk)
    assert said["distil_teachers"] == 3
    assert said["distil_left_out"] == 0
    assert 0 < said["distil_divergence"] < said["distil_divergence_before"]
    mean = fedavg.Method().settle_each(found.desk, found.before, found.updates)
    assert not state.equal(mean.model, after.model)
    plain = replace(method, distil="off").settle_each(found.desk, found.before, found.updates)
    assert state.equal(mean.model, plain.model)
    # The shares that are learned are those of the clients' models, weighted by their examples.
    pupil = pupil_of(found.desk)
    total, chosen = 0.0, torch.arange(36)
    for update in found.updates:
        model = state.section(update.payload, "model")
        state.load_(found.desk.model, {**found.before.model, **model})
        shares = similarity.relations(pupil.embedded(), 0.05).exp()
        total = total + update.examples / 33 * shares
    state.load_(found.desk.model, mean.model)
    log_shares = similarity.relations(pupil.embedded()[chosen], 0.1)
    assert said["distil_divergence_before"] == pytest.approx(
        float(similarity.divergence(torch.as_tensor(total), log_shares)), rel=1e-4
    )


def test_teachers_see_images_as_they_are_and_the_student_may_see_views(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = bench().desk
    plain = desk.plan.pixels.to_input(desk.public.images, torch.device("cpu"))
    seen: list[Tensor] = []
    vectors = type(desk.objective).vectors

    def watched(self: Any, network: nn.Module, inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return vectors(self, network, inputs)

    monkeypatch.setattr(type(desk.objective), "vectors", watched)
    pupil = pupil_of(desk)
    pupil.embedded()
    assert torch.equal(torch.cat(seen), plain)
    seen.clear()
    for _ in range(2):
        pupil.taught(
            lambda vectors, chosen: vectors.square().sum(),
            epochs=2, rate=1e-3, batch=36, seed=5, support={}, views=True,
        )  # fmt: skip
    first, second, *again = seen
    assert torch.equal(torch.stack(again), torch.stack([first, second]))  # drawn from the seed
    assert not torch.equal(first, second)
    assert first.shape == plain.shape
    apart = torch.cdist(first.flatten(1), plain.flatten(1)).min(1).values
    assert apart.min() > 1  # no image of the batch is one of the set, in whatever order


def test_it_is_distilled_from_a_round_on(bench: Callable[..., Bench]) -> None:
    found = bench(method__distil_from=2)
    first = found.desk.method.settle_each(found.desk, found.before, found.updates)
    mean = fedavg.Method().settle_each(found.desk, found.before, found.updates)
    assert state.equal(first.model, mean.model)
    assert "distil_teachers" not in found.desk.method.measured(found.before, first, found.desk)
    later = replace(found.before, round_index=1)
    second = found.desk.method.settle_each(found.desk, later, found.updates)
    assert found.desk.method.measured(later, second, found.desk)["distil_teachers"] == 3
    assert [found.desk.method.to_come(s) for s in (found.before, first, second)] == [1, 1, 0]
    assert not replace(found.desk.method, distil="off").to_come(found.before)


def pupil_of(desk: Any) -> Pupil:
    task = desk.task(desk.public)
    return Pupil(desk.model, desk.objective, desk.public, task, torch.device("cpu"), 100)


def collapsed(update: Update) -> Update:
    payload = dict(update.payload)
    payload["model/projector.3.weight"] = torch.zeros_like(payload["model/projector.3.weight"])
    payload["model/projector.3.bias"] = torch.ones_like(payload["model/projector.3.bias"])
    return replace(update, payload=payload)


def test_a_teacher_that_finds_all_alike_is_left_out_and_named(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    found = bench()
    method = found.desk.method
    one = [collapsed(found.updates[0]), *found.updates[1:]]
    with caplog.at_level(logging.WARNING):
        after = method.settle_each(found.desk, found.before, one)
    assert "round 1: the models of c0 find all public images alike" in caplog.text
    said = method.measured(found.before, after, found.desk)
    assert (said["distil_teachers"], said["distil_left_out"]) == (2, 1)
    every = [collapsed(update) for update in found.updates]
    after = method.settle_each(found.desk, found.before, every)
    mean = fedavg.Method().settle_each(found.desk, found.before, every)
    assert state.equal(after.model, mean.model)
    assert method.measured(found.before, after, found.desk) == {
        "distil_teachers": 0, "distil_left_out": 3,
    }  # fmt: skip


def test_the_mean_feature_is_learned_instead_where_asked_for(bench: Callable[..., Bench]) -> None:
    found = bench(method__distil="feature", method__distil_rate=1e-3)
    after = found.desk.method.settle_each(found.desk, found.before, found.updates)
    other = replace(found.desk.method, distil="similarity")
    assert not state.equal(
        after.model, other.settle_each(found.desk, found.before, found.updates).model
    )


@pytest.mark.parametrize("name", ["moco", "byol", "simmim", "supervised"])
def test_it_goes_with_every_objective(name: str, data: Path, tmp_path: Path) -> None:
    reports = run(Bed(data, tmp_path), "run", training__objective={"name": name})
    assert reports[-1].method_metrics["distil_teachers"] == 3


def test_it_may_prune_and_what_is_dead_stays_so(data: Path, tmp_path: Path) -> None:
    bed = Bed(data, tmp_path)
    pruner = {
        "name": "relevance", "pruning_rate": 0.5, "warmup_rounds": 1,
        "relevance": {"name": "magnitude"},
    }  # fmt: skip
    reports = run(bed, "run", method__pruner=pruner, federation__rounds=3)
    assert reports[-1].sparsity > 0.2
    store = open_store(bed.setting("run").place.store)
    last = checkpoint.unpack_server_state(store.get(Journal(store).commits()[-1].state))
    graph = catalogue.entry(NARROW).graph(catalogue.build(NARROW, 3, 10, seed=1))
    assert last.mask is not None
    for entry, kept in graph.support(last.mask, "slices").items():
        if entry in last.model and not entry.startswith("fc"):
            assert not last.model[entry][~kept.expand(last.model[entry].shape)].any(), entry


LOCAL = {"training__objective": {"name": "simclr", "heads": "local"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method__bits": 9}, r"bits must be 1 to 8, or 32, got 9"),
        ({"method__down_bits": 0}, r"down_bits must be 1 to 8, or 32, got 0"),
        ({"method__distil": "labels"}, r"distil: wanted 'off', 'similarity' or 'feature'"),
        ({"method__distil_batch": 16}, r"distil_batch must be 32 or more, got 16"),
        ({"method__distil_temperature": 0.0}, r"distil_temperature .*must be positive"),
        ({"method__distil_teacher_temperature": 0.0}, r"teacher_temperature .*must be positive"),
        ({"method__distil_from": 0}, r"distil_from and distil_epochs must be 1 or more, got 0"),
        ({"method__rho": -1.0}, r"rho .*must be 0 or more"),
        (
            {"codec": {"down": {"name": "masked"}, "up": {"name": "topk"}}},
            r"codec\.up: topk would compress what fedsense compresses.*set method\.bits",
        ),
        (
            {"codec": {"name": "signs"}},
            r"codec\.down: signs would compress.*leave codec at masked, and set method\.down_bits",
        ),
        (
            {"method__distil_views": True, "training__objective": {"name": "supervised"}},
            r"distil_views: objective supervised draws no views; set it to false, or choose one",
        ),
        (LOCAL, r"training\.objective\.heads.*aligned.*set it to shared, or align to 0"),
        ({**LOCAL, "method__align": 0.0}, r"heads.*set it to shared, or method\.distil to off"),
        ({"training__batch_size": 4}, r"compares the images of a batch and needs 8"),
        ({"training__objective": {"name": "mae"}}, r"only a vision transformer can"),
        (
            {"method__name": "spafl", "method__local": {"name": "guided"}, "method__ramp": None},
            r"'guided' follows what the server sends.*spafl exchanges thresholds",
        ),
    ],
)
def test_what_can_not_be_is_refused_before_the_run(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    bed = Bed(data, tmp_path)
    settings = {
        "method__name": "fedsense", "training__objective": {"name": "simclr"}, **PUBLIC, **changes,
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if value is not None}
    with pytest.raises(FedXError, match=message):
        list(federate(tiny(**settings), bed.setting("run"), InProcess(1)))
    assert not (bed.runs / "run").exists()


def test_without_public_images_or_with_few_it_is_refused(bed: Bed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fedsense learns from public images.*reference\.public"):
        run(bed, "none", datasets__synthetic__reference__public=0)
    few = {"datasets__synthetic__reference__public": 20}
    for stage in (prepare, partition, reference):
        stage(tiny(**few), "synthetic", tmp_path / "few")
    with pytest.raises(ConfigError, match=r"needs 32 or more.*'synthetic' has 20; raise.*public"):
        run(Bed(tmp_path / "few", tmp_path / "runs"), "few", **few)


def test_its_parts_are_those_that_other_methods_may_have() -> None:
    method = plugins.build("methods", "fedsense", {"rho": 0.2})
    assert isinstance(method, fedsense.Method)
    assert method.parts.local == guided.Rule(rho=0.2)
    assert method.sees_each
    local = alone()
    load(local)
    assert "received/conv1.weight" in (
        fedavg.Method(local={"name": "guided"}).train(local).memory or {}
    )
