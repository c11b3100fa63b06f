"""FedAdam, FedYogi and FedAvgM against slow restatements of their equations."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alone import desk_of
from bed import Bed, tiny_resnet6
from fedx_core.base import seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import StateDict
from fedx_core.methods import base, fedadam, fedavgm, fedyogi
from fedx_core.models import catalogue
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.wire.messages import ServerState, Update

MODEL = catalogue.build("resnet6", 3, 10, seed=0)
INFO = desk_of(MODEL, catalogue.entry("resnet6").graph(MODEL))
EXAMPLES = (10, 30)
PLACES = (("conv1.weight", 17), ("bn1.weight", 3), ("bn1.bias", 3), ("fc.bias", 9))
NAMES = ("fedadam", "fedyogi", "fedavgm")


def learned(round_index: int) -> list[Update]:
    """What two clients answer in a round, whatever they were sent."""
    found = []
    for k, examples in enumerate(EXAMPLES):
        generator = seeding.torch_generator(seeding.derive(round_index, k))
        model: StateDict = {}
        for name, value in MODEL.state_dict().items():
            noise = torch.randn(value.shape, generator=generator) * 0.05
            model[name] = value + noise if value.is_floating_point() else value + round_index
        payload = state.as_section(model, "model")
        found.append(Update(client=str(k), payload=payload, examples=examples))
    return found


def after(method: base.Method, rounds: int = 3) -> ServerState:
    server = ServerState(round_index=0, model=state.copy(MODEL.state_dict()))
    for round_index in range(1, rounds + 1):
        digests = state.digest(server.model), state.digest(server.memory)
        following = method.settle_each(INFO, server, learned(round_index))
        assert (state.digest(server.model), state.digest(server.memory)) == digests
        state.require_same_layout(server.model, following.model)
        server = following
    return server


def mean(round_index: int, name: str, place: int) -> float:
    """Mean by examples of one value of the clients' models."""
    values = [float(u.payload[f"model/{name}"].reshape(-1)[place]) for u in learned(round_index)]
    return sum(n * v for n, v in zip(EXAMPLES, values, strict=True)) / sum(EXAMPLES)


def start(name: str, place: int) -> float:
    return float(MODEL.state_dict()[name].reshape(-1)[place])


@pytest.mark.parametrize("yogi", [False, True])
def test_adam_and_yogi_step_as_their_equations_say(yogi: bool) -> None:
    eta, beta_1, beta_2, tau = 0.02, 0.8, 0.95, 1e-2
    kind = fedyogi.Method if yogi else fedadam.Method
    server = after(kind(learning_rate=eta, beta_1=beta_1, beta_2=beta_2, tau=tau))
    for name, place in PLACES:
        w, m, v = start(name, place), 0.0, tau**2
        for round_index in (1, 2, 3):
            delta = mean(round_index, name, place) - w
            m = beta_1 * m + (1 - beta_1) * delta
            if yogi:
                sign = (v > delta**2) - (v < delta**2)
                v = v - (1 - beta_2) * delta**2 * sign
            else:
                v = beta_2 * v + (1 - beta_2) * delta**2
            w = w + eta * m / (math.sqrt(v) + tau)
        assert float(server.model[name].reshape(-1)[place]) == pytest.approx(w, abs=2e-7)
        assert float(server.memory[f"v/{name}"].reshape(-1)[place]) == pytest.approx(v, rel=1e-4)


def test_momentum_steps_as_its_equations_say() -> None:
    server = after(fedavgm.Method(momentum=0.7, learning_rate=0.5))
    for name, place in PLACES:
        w, velocity = start(name, place), 0.0
        for round_index in (1, 2, 3):
            velocity = 0.7 * velocity + mean(round_index, name, place) - w
            w = w + 0.5 * velocity
        assert float(server.model[name].reshape(-1)[place]) == pytest.approx(w, abs=2e-7)


def test_momentum_zero_is_federated_averaging() -> None:
    averaged = after(base.Method()).model
    for name, value in after(fedavgm.Method(momentum=0.0)).model.items():
        torch.testing.assert_close(value, averaged[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_batch_norms_statistics_are_averaged_and_have_no_moments(name: str) -> None:
    method = {"fedadam": fedadam, "fedyogi": fedyogi, "fedavgm": fedavgm}[name].Method()
    server, averaged = after(method), after(base.Method()).model
    for entry, value in server.model.items():
        assert torch.equal(value, averaged[entry]) == (entry not in INFO.graph.parameters), entry
    of = {key.partition("/")[2] for key in server.memory}
    assert of == INFO.graph.parameters


def run(bed: Bed, name: str, **overrides: Any) -> tuple[StateDict, list[Any]]:
    setting = bed.setting(name)
    settings = tiny_resnet6(method__name=name, federation__rounds=2, **overrides)
    reports = list(federate(settings, setting, InProcess(1)))
    return final_model(open_store(setting.place.store)), reports


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_federated_averagings(name: str, bed: Bed) -> None:
    plain, first = run(bed, "fedavg", training__batch_norm="recalibrate")
    moved, second = run(bed, name, training__batch_norm="recalibrate")
    assert [r.traffic for r in first] == [r.traffic for r in second]
    assert [r.paper_bytes for r in first] == [r.paper_bytes for r in second]
    assert not torch.equal(plain["fc.weight"], moved["fc.weight"])
    assert second[-1].method_metrics["server_step"] > 0


def test_a_run_branched_from_federated_averaging_starts_with_empty_moments(bed: Bed) -> None:
    _, reports = run(bed, "fedavg", federation__keep_states=9)
    assert len(reports) == 2
    store = open_store(bed.setting("fedavg").place.store)
    first, second = (
        checkpoint.unpack_server_state(store.get(Journal(store).commits()[i].state)) for i in (1, 2)
    )
    assert not first.memory
    again = fedadam.Method().settle_each(INFO, replace(first, round_index=1), learned(1))
    assert again.round_index == second.round_index
    assert again.memory


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (fedadam, {"learning_rate": 0.0}, "learning_rate and tau must be positive, got 0.0"),
        (fedadam, {"tau": 0.0}, "learning_rate and tau must be positive"),
        (fedyogi, {"beta_1": 1.0}, r"must lie in \[0, 1\), got 1.0 and 0.99"),
        (fedadam, {"beta_2": -0.1}, r"must lie in \[0, 1\)"),
        (fedavgm, {"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        (fedavgm, {"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(kind: Any, settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kind.Method(**settings)
