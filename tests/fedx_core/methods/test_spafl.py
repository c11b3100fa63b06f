"""SpaFL against a slow restatement of its step, and what travels, stays and is scored."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alone import alone, info_of
from bed import Bed, tiny_resnet6
from fedx_core.base import seeding, state
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError
from fedx_core.clients.client import Place
from fedx_core.learning.training import batches
from fedx_core.methods.base import Local, Turn
from fedx_core.methods.spafl import MOMENTUM, Method, kept_units, yielded
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Commit
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport

LAYERS = [layer.name for layer in info_of().graph.layers]
UNITS = 576
"""Filters of ResNet6: 64 + 64 + 64 + 128 + 128 + 128."""


def first(share: float) -> Local:
    """A newcomer whose thresholds lie above the weights of that share of each layer's units."""
    local = alone()
    weights = state.section(local.downlink, "model")
    sizes = {n: weights[f"{n}.weight"].abs().flatten(1).mean(1) for n in LAYERS}
    taus = {n: size.quantile(share).repeat(len(size)) for n, size in sizes.items()}
    return alone(downlink={**state.as_section(taus, "threshold"), **local.downlink})


def test_a_units_mask_is_a_step_whose_gradient_passes_inside_or_outside_of_one() -> None:
    weight = torch.tensor([[0.5, -0.7], [3.0, -3.0], [0.1, 0.1]], requires_grad=True)
    tau = torch.tensor([0.2, 0.4, 0.2], requires_grad=True)
    for code_compat, passes in ((False, [1.0, 0.0, 1.0]), (True, [0.0, 1.0, 0.0])):
        kept = kept_units(weight, tau, code_compat=code_compat)
        assert kept.tolist() == [1.0, 1.0, 0.0]
        by_tau, by_weight = torch.autograd.grad(kept.sum(), (tau, weight))
        assert by_tau.tolist() == [-p for p in passes]
        assert torch.equal(by_weight, weight.sign() / 2 * torch.tensor(passes)[:, None])


def test_a_thresholds_change_moves_all_weights_of_its_unit_against_their_sum() -> None:
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    change = torch.tensor([0.9, -0.9, 0.0])
    for code_compat, shares in ((False, 18), (True, 9)):
        moved = yielded(weight, change, code_compat=code_compat)
        for i in range(3):
            sign = math.copysign(1, float(weight[i].sum()))
            wanted = weight[i] - float(change[i]) * sign / shares
            assert torch.allclose(moved[i], wanted, atol=1e-6)
    linear = torch.tensor([[1.0, -3.0]])
    assert yielded(linear, torch.tensor([1.0]), code_compat=True).tolist() == [[1.5, -2.5]]


def test_local_training_is_the_papers_step_written_out() -> None:
    method = Method(penalty=0.02, threshold_rate=0.05, clip=2.0)
    update = method.train(first(0.3))
    slow = first(0.3)
    catch_up = state.section(slow.downlink, "threshold")
    slow.model.load_state_dict(state.section(slow.downlink, "model"))
    w = {n: p.detach().clone() for n, p in slow.model.named_parameters()}
    for n in LAYERS:
        w[f"{n}.weight"] = yielded(w[f"{n}.weight"], catch_up[n])
    tau = {n: value.clone() for n, value in catch_up.items()}
    velocity: dict[str, Tensor] = {}
    adam = torch.optim.Adam(w.values(), lr=0.001, weight_decay=0.01)
    slow.model.train()
    for images, labels in batches(
        slow.examples, slow.desk.plan.training, seeding.derive(slow.seed, 0)
    ):
        margin = {n: w[f"{n}.weight"].abs().flatten(1).mean(1) - tau[n] for n in LAYERS}
        for name, parameter in slow.model.named_parameters():
            layer = name.removesuffix(".weight")
            with torch.no_grad():
                parameter.copy_(w[name])
                if layer in tau:
                    parameter[margin[layer] <= 0] = 0
        slow.model.zero_grad()
        inputs = slow.desk.plan.pixels.to_input(images, torch.device("cpu"))
        functional.cross_entropy(slow.model(inputs), torch.from_numpy(labels)).backward()
        gradients: dict[str, Tensor] = {}
        for name, parameter in slow.model.named_parameters():
            g = parameter.grad
            assert g is not None
            layer = name.removesuffix(".weight")
            if layer in tau:
                by_mask = (g * w[name]).flatten(1).sum(1) * (margin[layer].abs() <= 1)
                row = (-1, *[1] * (g.ndim - 1))
                size = w[name][0].numel()
                gradients[f"tau/{layer}"] = -by_mask - 0.02 * (-tau[layer]).exp()
                g = g * (margin[layer] > 0).reshape(row)
                g = g + by_mask.reshape(row) * w[name].sign() / size
            gradients[name] = g
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        assert norm > 2.0, "or the test would not see the clipping"
        for name, value in w.items():
            value.grad = gradients[name] * 2.0 / (norm + 1e-6)
        adam.step()
        for n in LAYERS:
            g = gradients[f"tau/{n}"] * 2.0 / (norm + 1e-6)
            velocity[n] = MOMENTUM * velocity[n] + g if n in velocity else g
            tau[n] = tau[n] - 0.05 * velocity[n]
    assert update.memory is not None
    for n in LAYERS:
        assert torch.allclose(update.payload[f"threshold/{n}"], tau[n], atol=1e-5), n
        assert not torch.equal(tau[n], catch_up[n])
    for name, value in w.items():
        # Adam's step has one size, so a gradient of nearly zero may round to either side.
        apart = (update.memory[f"weights/{name}"] - value).abs()
        assert (apart < 1e-5).double().mean() > 0.995, name
    kept = [
        float((w[f"{n}.weight"].abs().flatten(1).mean(1) > tau[n]).double().mean()) for n in LAYERS
    ]
    assert 0.2 < update.metrics["client_density"] < 1
    assert update.metrics["client_density"] == pytest.approx(sum(kept) / len(kept), abs=0.01)


def test_a_layer_that_died_out_starts_anew_and_arguments_stay_as_they_are() -> None:
    local = first(1.0)
    before = state.copy(local.downlink)
    update = Method(penalty=0, clip=1e-9).train(local)
    assert state.equal(local.downlink, before)
    assert all(float(update.payload[f"threshold/{n}"].abs().max()) < 1e-9 for n in LAYERS)
    assert update.metrics["client_density"] == 1
    Method().evaluated(local)
    assert state.equal(local.downlink, before)
    weights = local.model.state_dict()
    assert all(bool(weights[f"{n}.weight"].flatten(1).any(1).all()) for n in LAYERS)


@pytest.mark.parametrize("code_compat", [False, True])
def test_a_client_is_scored_once_the_last_thresholds_are_applied(code_compat: bool) -> None:
    method = Method(code_compat=code_compat)
    memory = method.train(first(0.3)).memory
    assert memory is not None
    heard, own = state.section(memory, "received"), state.section(memory, "threshold")
    drawn = torch.Generator().manual_seed(3)
    mean = {n: tau + 0.01 * torch.randn(len(tau), generator=drawn) for n, tau in own.items()}
    local = alone(downlink=state.as_section(mean, "threshold"), memory=memory)
    method.evaluated(local)
    scored = local.model.state_dict()
    moved = 0
    for name in LAYERS:
        weight = memory[f"weights/{name}.weight"]
        for unit in range(len(weight)):
            change = float(mean[name][unit] - heard[name][unit])
            sign = math.copysign(1, float(weight[unit].sum()))
            kernel = weight.shape[2] * weight.shape[3]
            shared_by = kernel if code_compat else weight[unit].numel()
            wanted = weight[unit] - change * sign / shared_by
            tau = own[name][unit] if code_compat else mean[name][unit]
            if wanted.abs().mean() <= tau:
                wanted = torch.zeros_like(wanted)
            assert torch.allclose(scored[f"{name}.weight"][unit], wanted, atol=1e-6), name
            moved += not torch.equal(wanted, weight[unit])
    assert moved > UNITS / 2


def run(bed: Bed, name: str, settings: ExperimentConfig) -> tuple[Setting, list[RoundReport]]:
    setting = bed.setting(name)
    return setting, list(federate(settings, setting, InProcess(1)))


def committed(setting: Setting) -> list[Commit]:
    return Journal(open_store(setting.place.store)).commits()


def memory(setting: Setting, commit: Commit, client: str) -> dict[str, Tensor]:
    ref = commit.holdings[client].memory
    assert ref is not None
    return checkpoint.unpack_state(open_store(setting.place.memory).get(ref))[0]


def test_first_weights_travel_once_to_each_client_and_thresholds_alone_after_that(
    bed: Bed,
) -> None:
    settings = tiny_resnet6(
        method__name="spafl",
        federation__participation=0.3,
        federation__rounds=5,
        federation__keep_states=9,
    )
    setting, reports = run(bed, "run", settings)
    first_model = checkpoint.unpack_server_state(
        open_store(setting.place.store).get(committed(setting)[0].state)
    ).model
    whole = sum(v.numel() * v.element_size() for v in first_model.values())
    thresholds = HEADER.size + 4 * UNITS
    met: set[str] = set()
    for report in reports:
        for client in report.cohort:
            sent = report.traffic[client]
            assert sent.downlink == thresholds + (0 if client in met else whole)
            assert (sent.uplink, sent.mask) == (thresholds, 0)
        met |= set(report.cohort)
        for client, sent in report.traffic.items():
            assert sent.evaluation == thresholds + (0 if client in met else whole)
        assert set(report.traffic) == {"client-00", "client-01", "client-02"}
        assert report.paper_bytes == len(report.cohort) * 8 * UNITS
        assert report.method_metrics["threshold_step"] > 0
    assert 1 < len(met) < 5, "or nobody would have joined late, or nobody come back"
    scores = reports[-1].per_client
    total = sum(scores[c]["examples"] for c in scores)
    mean = sum(scores[c]["examples"] * scores[c]["overall_accuracy"] for c in scores) / total
    assert reports[-1].metrics["overall_accuracy"] == pytest.approx(mean)


@dataclass
class Losing(InProcess):
    """Loses one client in the first round, after it has trained and kept its memory."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = super().do(job, place)
        if (job.client, job.round_index) == ("client-01", 1):
            return ClientFailure(client=job.client, attempt=job.attempt, reason="away")
        return outcome


def test_a_client_whose_first_round_was_lost_starts_from_the_first_weights_again(bed: Bed) -> None:
    settings = tiny_resnet6(
        method__name="spafl",
        federation__rounds=2,
        federation__min_reports=2,
        federation__attempts=1,
    )
    setting = bed.setting()
    _, second = federate(settings, setting, Losing(1))
    thresholds = HEADER.size + 4 * UNITS
    fetched = {client: sent.downlink > thresholds for client, sent in second.traffic.items()}
    assert fetched == {"client-00": False, "client-01": True, "client-02": False}
    steps = {
        client: int(
            memory(setting, committed(setting)[-1], client)["weights/bn1.num_batches_tracked"]
        )
        for client in fetched
    }
    assert steps["client-00"] == steps["client-02"] == 2 * steps["client-01"]


def test_the_server_holds_the_mean_threshold_and_clients_the_rest(bed: Bed) -> None:
    settings = tiny_resnet6(method__name="spafl", federation__rounds=2, federation__keep_states=9,
                    training__batch_norm="local")  # fmt: skip
    setting, _ = run(bed, "run", settings)
    states = [
        checkpoint.unpack_server_state(open_store(setting.place.store).get(c.state))
        for c in committed(setting)
    ]
    last = committed(setting)[-1]
    clients = [memory(setting, last, client) for client in sorted(last.holdings)]
    for name in LAYERS:
        mean = torch.stack([kept[f"threshold/{name}"].double() for kept in clients]).mean(0)
        assert torch.allclose(states[2].memory[name].double(), mean, atol=1e-7)
        assert all(
            torch.equal(kept[f"received/{name}"], states[1].memory[name]) for kept in clients
        )
    for name, value in states[0].model.items():
        own = {state.digest({"": kept[f"weights/{name}"]}) for kept in clients}
        assert len(own) == 3 or name.endswith("num_batches_tracked")
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(states[2].model[name], value), "the start is for those yet to come"


def test_a_client_that_was_not_asked_catches_up_with_all_that_changed() -> None:
    method = Method()
    kept = method.train(first(0.0))
    assert kept.memory is not None
    received = state.section(kept.memory, "received")
    now = {name: tau + 0.5 for name, tau in received.items()}
    starts: list[dict[str, Tensor]] = []

    class Watched(Local):
        def fit(self, rule: object = None) -> float:
            starts.append(state.copy(self.model.state_dict()))
            return 0.0

    again = alone(downlink=state.as_section(now, "threshold"), memory=dict(kept.memory))
    method.train(Watched(**vars(again)))
    for name in LAYERS:
        before = kept.memory[f"weights/{name}.weight"]
        wanted = yielded(before, torch.full((len(before),), 0.5))
        assert torch.allclose(starts[0][f"{name}.weight"], wanted, atol=1e-7)
    assert torch.equal(starts[0]["fc.weight"], kept.memory["weights/fc.weight"])


def test_the_mean_of_the_personal_models_is_scored_where_the_server_can_see_them(
    bed: Bed,
) -> None:
    settings = tiny_resnet6(method__name="spafl", method__average=True, federation__rounds=1)
    setting, reports = run(bed, "seen", settings)
    assert 0 <= reports[0].method_metrics["averaged_overall_accuracy"] <= 1
    last = committed(setting)[-1]
    memories = [memory(setting, last, client) for client in sorted(last.holdings)]
    server = checkpoint.unpack_server_state(open_store(setting.place.store).get(last.state))
    mean = Method(average=True).averaged(server, memories)
    assert mean is not None
    wanted = torch.stack([kept["weights/fc.weight"].double() for kept in memories]).mean(0)
    assert torch.allclose(mean["fc.weight"].double(), wanted, atol=1e-7)
    assert Method().averaged(server, memories) is None

    class Elsewhere(InProcess):
        """Clients whose memories the server can't reach."""

        def do(self, job: ClientJob, place: Place) -> Outcome:
            outcome = super().do(job, place)
            for path in Path(place.memory).rglob("*.0"):
                path.rename(path.with_name("away"))
            return outcome

    with pytest.raises(ConfigError, match=r"can't see what client-00 keeps.*method\.average"):
        list(federate(settings, bed.setting("unseen"), Elsewhere(1)))


def test_a_transformers_neurons_have_thresholds_and_its_classifier_has_none() -> None:
    info = info_of("vit_base_patch16_224")
    server = Method().start({name: torch.zeros(()) for name in info.entries})
    sent = Method().downlink(server, info)
    assert sent["threshold/blocks.0.attn.qkv"].shape == (2304,)
    assert not [name for name in sent if "head" in name or "norm" in name]
    turn = Turn(client="a", place=0, round_index=3, purpose="train", returning=False)
    assert Method().variant(turn, info) == "first"
    wire = Method().schema(info, None, None, "first")
    assert [e.name for e in wire.down.entries] == list(Method().downlink(server, info, "first"))


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="penalty must be"):
        Method(penalty=-1)
    with pytest.raises(ConfigError, match="threshold_rate and clip"):
        Method(clip=0)
