"""An objective that is this file alone: two views, a momentum encoder, and a head.

Redundancy reduction between a view and what a momentum encoder makes of the other one, after
Zbontar et al., Barlow Twins, ICML 2021. The file is put beside FedX's objectives under a name of
its own, and nothing else is changed.
"""

import copy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedx_core.objectives
from bed import Bed, tiny
from fedx_core.base import limits, state
from fedx_core.objectives import base
from fedx_core.objectives.base import Seen, Task
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store

NAME = "twins"


class Teacher(nn.Module):
    """The momentum encoder; it stays with its client."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.copy = copy.deepcopy(network).requires_grad_(False).train()


@dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Make each feature of two views alike, and all others of them unlike.

    Args:
        weight: of what is unlike, positive.
        momentum: what a step leaves of the momentum encoder, in [0, 1).
    """

    least_batch = 4
    reads = ("embed.weight",)

    weight: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        limits.positive(weight=self.weight)
        limits.within("[0, 1)", momentum=self.momentum)

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Put a linear embedding in the classifier's place."""
        model.embed = nn.Linear(base.headless(model, classifier), 16)
        return model

    def views(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor | None,
        task: Task,
        random: np.random.Generator,
    ) -> Seen:
        """Add noise of its own to each view."""
        noise = torch.from_numpy(random.normal(0, 0.1, (2, *inputs.shape))).to(inputs)
        return Seen((inputs + noise[0], inputs + noise[1]), targets)

    def beside(self, network: nn.Module) -> nn.Module:
        """Begin with the network itself."""
        return Teacher(network)

    def outputs(self, network: nn.Module, seen: Seen) -> tuple[Tensor, ...]:
        """Embed the first view."""
        return (embed(network, seen.views[0]),)

    def loss(
        self, outputs: tuple[Tensor, ...], seen: Seen, task: Task, beside: nn.Module | None
    ) -> Tensor:
        """Compare the cross-correlation with one on its diagonal and zero beside it."""
        assert isinstance(beside, Teacher)
        with torch.no_grad():
            other = embed(beside.copy, seen.views[1])
        pair = [(z - z.mean(0)) / (z.std(0) + 1e-5) for z in (outputs[0].float(), other.float())]
        alike = pair[0].T @ pair[1] / len(other)
        apart = alike - torch.eye(len(alike), device=alike.device)
        strength = torch.full_like(alike, self.weight).fill_diagonal_(1.0)
        return (apart.square() * strength).sum()

    def after_step(self, network: nn.Module, beside: nn.Module) -> None:
        """Follow the network."""
        assert isinstance(beside, Teacher)
        base.follow(beside.copy, network, self.momentum)


def embed(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return what the head makes of the features."""
    found: Tensor = network.get_submodule("embed")(network(inputs))
    return found


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This file beside the objectives that FedX brings."""
    folder = tmp_path / "objectives"
    folder.mkdir()
    shutil.copy(__file__, folder / f"{NAME}.py")
    paths = [*fedx_core.objectives.__path__, str(folder)]
    monkeypatch.setattr(fedx_core.objectives, "__path__", paths)
    yield
    sys.modules.pop(f"fedx_core.objectives.{NAME}", None)


def run(bed: Bed, name: str, **changes: Any) -> state.StateDict:
    settings = tiny(
        training__objective={"name": NAME, "weight": 0.02}, federation__rounds=2, **changes
    )
    setting = bed.setting(name)
    reports = list(federate(settings, setting, InProcess(1)))
    assert [report.round_index for report in reports] == [1, 2]
    assert 0 <= reports[-1].metrics["overall_accuracy"] <= 1
    return final_model(open_store(setting.place.store))


@pytest.mark.usefixtures("installed")
def test_it_trains_in_a_federation_to_the_same_bits_each_time(bed: Bed) -> None:
    once, again = (run(bed, name, method__name="fedavg") for name in ("once", "again"))
    assert state.equal(once, again)
    assert {"embed.weight", "embed.bias"} <= once.keys()
    assert not any(name.startswith("copy.") for name in once)


@pytest.mark.usefixtures("installed")
def test_its_momentum_encoder_is_its_clients_and_survives_a_stop(bed: Bed) -> None:
    whole = run(bed, "whole", method__name="fedprox")
    settings = tiny(
        training__objective={"name": NAME, "weight": 0.02}, federation__rounds=2,
        method__name="fedprox",
    )  # fmt: skip
    setting = bed.setting("parts")
    stopped = federate(settings, setting, InProcess(1))
    next(stopped)
    stopped.close()
    list(federate(settings, setting, InProcess(2), resume=True))
    assert state.equal(whole, final_model(open_store(setting.place.store)))


@pytest.mark.usefixtures("installed")
def test_its_units_are_pruned_and_its_head_reads_what_is_left(bed: Bed) -> None:
    model = run(bed, "pruned", method__warmup_rounds=1, method__pruning_rate=0.5)
    dead = model["layer2.0.conv2.weight"].flatten(1).any(1).logical_not()
    assert int(dead.sum()) == 8
    assert model["embed.weight"].any()
