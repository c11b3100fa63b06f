"""FedProx against a slow restatement of its objective."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from alone import alone
from bed import Bed, tiny
from fedx_core.base import seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.base.state import StateDict
from fedx_core.learning.training import batches
from fedx_core.methods.base import Local, load
from fedx_core.methods.fedprox import Method
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store


def local(epochs: int = 2) -> Local:
    training = {
        "epochs": epochs, "learning_rate": 0.01, "weight_decay": 1e-4,
        "memory_format": "contiguous",
    }  # fmt: skip
    return alone(round_index=2, training=training)


def slowly(mu: float, code_compat: bool) -> StateDict:
    """Adam on the loss of equation 2, written out."""
    given = local()
    load(given)
    model, plan = given.model.train(), given.desk.plan
    w_t = {name: value.detach().clone() for name, value in model.named_parameters()}
    adam = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-4)
    for epoch in range(2):
        seed = seeding.derive(given.seed, epoch)
        for images, labels in batches(given.examples, plan.training, seed):
            inputs = plan.pixels.to_input(images, torch.device("cpu"))
            loss = functional.cross_entropy(model(inputs), torch.from_numpy(labels))
            for name, w in model.named_parameters():
                squared = ((w - w_t[name]) ** 2).sum()
                if not code_compat:
                    loss = loss + mu / 2 * squared
                elif float(squared.detach()):  # the norm has no gradient at zero
                    loss = loss + mu / 2 * torch.sqrt(squared)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return state.copy(model.state_dict())


@pytest.mark.parametrize("code_compat", [False, True])
def test_a_client_minimises_its_loss_and_the_distance_to_what_it_was_sent(
    code_compat: bool,
) -> None:
    given = local()
    sent = state.digest(given.downlink)
    update = Method(mu=0.5, code_compat=code_compat).train(given)
    assert state.digest(given.downlink) == sent
    wanted = slowly(0.5, code_compat)
    found = state.section(update.payload, "model")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    other = slowly(0.5, not code_compat)
    assert not torch.allclose(found["fc.weight"], other["fc.weight"], rtol=1e-3, atol=1e-4)


def moved(mu: float) -> float:
    given = local(epochs=3)
    found = state.section(Method(mu=mu).train(given).payload, "model")
    sent = state.section(given.downlink, "model")
    return math.sqrt(
        sum(
            float((found[name] - sent[name]).square().sum()) for name in given.desk.graph.parameters
        )
    )


def test_the_stronger_the_pull_the_nearer_the_client_stays() -> None:
    distances = [moved(mu) for mu in (0.0, 0.1, 10.0)]
    assert distances[0] > distances[1] > distances[2] > 0


@pytest.mark.parametrize("dataset", ["synthetic", "countries"])
def test_without_a_pull_it_is_federated_averaging_and_costs_the_same_with_one(
    dataset: str, bed: Bed
) -> None:
    found = {}
    for run, name, mu in (("a", "fedavg", {}), ("b", "fedprox", 0.0), ("c", "fedprox", 0.1)):
        setting = bed.setting(run, dataset)
        given: dict[str, Any] = {} if name == "fedavg" else {"method__mu": mu}
        settings = tiny(method__name=name, dataset=dataset, federation__rounds=1, **given)
        (report,) = federate(settings, setting, InProcess(1))
        found[run] = state.digest(final_model(open_store(setting.place.store))), report.traffic
    assert found["a"] == found["b"]
    assert found["a"][1] == found["c"][1]
    assert found["a"][0] != found["c"][0]


def test_a_negative_pull_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mu must be 0 or more, got -0\.1"):
        Method(mu=-0.1)
