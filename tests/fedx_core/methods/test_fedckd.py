"""Cross knowledge distillation against its equations, and the same again."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.clients.plan import MethodDesk, set_up
from fedx_core.desk.local import Local
from fedx_core.images import set_folder
from fedx_core.methods import fedckd
from fedx_core.objectives import simclr
from fedx_core.objectives._contrast import project
from fedx_core.objectives.base import Seen
from fedx_core.rounds import start
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.wire.messages import ServerState

WITH = {"training__objective": {"name": "simclr", "temperature": 0.1, "predictor": True}}


def settings_for(**overrides: Any) -> Any:
    return tiny(**{"method__name": "fedckd", "federation__rounds": 1, **WITH, **overrides})


def local_of(tiny_data: Path, tmp_path: Path) -> Local:
    settings = settings_for(training__memory_format="contiguous")
    setting = Bed(tiny_data, tmp_path).setting()
    desk = start.check(settings, start.load(setting, settings))
    pixels = replace(desk.plan.pixels, scale=255.0)
    desk = set_up(replace(desk.plan, pixels=pixels), 3)
    part = set_folder.read_part(tiny_data / "synthetic" / "shards" / "client-00", "train")
    weights = state.copy(desk.model.state_dict())
    return Local(
        desk=desk, client="client-00", round_index=1, model=desk.model,
        downlink=state.as_section(weights, "model"), mask=None, memory={}, examples=part, seed=9,
    )  # fmt: skip


def unit(z: Tensor) -> Tensor:
    return z / z.square().sum(1, keepdim=True).sqrt()


def slow_js(one: Tensor, other: Tensor, rest: Tensor, tau: float) -> float:
    """Return the mean of KL(m || p) / 2 + KL(m || p') / 2 over images, m being the mean of both."""
    total = 0.0
    for z, w in zip(unit(one), unit(other), strict=True):
        shares = []
        for v in (z, w):
            weights = [math.exp(float(v @ r) / tau) for r in unit(rest)]
            shares.append([x / sum(weights) for x in weights])
        for i in range(len(rest)):
            middle = (shares[0][i] + shares[1][i]) / 2
            total += sum(middle * math.log(middle / p[i]) for p in shares) / 2
    return total / len(one)


def drawn(seed: int, count: int = 5, width: int = 4) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_views_relate_to_others_by_the_divergence_of_their_shares() -> None:
    one, other, rest = drawn(1), drawn(2), drawn(3, count=7)
    found = float(fedckd.apart(one, other, rest, 0.1))
    assert found == pytest.approx(slow_js(one, other, rest, 0.1), rel=1e-4)
    assert float(fedckd.apart(one, one * 3, rest, 0.1)) == pytest.approx(0, abs=1e-6)


def test_a_step_adds_three_terms_to_the_contrast(tiny_data: Path, tmp_path: Path) -> None:
    local = local_of(tiny_data, tmp_path)
    method: Any = local.desk.method  # type: ignore[attr-defined]
    rule = method.rule(local)
    assert rule is not None
    assert rule.penalty_of_batch is not None
    model = local.model.train()
    inputs = local.desk.plan.pixels.to_input(local.examples.images[:10], torch.device("cpu"))
    seen = Seen((inputs, inputs.flip(2)))
    one, other = local.desk.objective.outputs(model, seen)
    found = float(rule.penalty_of_batch(model, seen, (one, other)).detach())
    # The server's network is the client's own in the first step.
    rest = fedckd._others(local)(torch.device("cpu"))
    assert len(rest) == 16
    with torch.no_grad():
        taught, relatives = project(model, seen.views[1]), project(model, rest)
        predictor = model.get_submodule("predictor")
        guess, guess_other = predictor(torch.cat([one, other])).chunk(2)
        wanted = float(simclr.contrast(guess, taught, 0.1))
        wanted += slow_js(guess, guess_other, relatives, 0.1)
        wanted += slow_js(one.detach(), other.detach(), relatives, 0.1)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_it_is_the_same_again_and_the_predictor_learns(tiny_data: Path, tmp_path: Path) -> None:
    local = local_of(tiny_data, tmp_path)
    method: Any = local.desk.method  # type: ignore[attr-defined]
    digest = state.digest(local.downlink)
    updates = [method.train(local) for _ in range(2)]
    assert state.equal(updates[0].payload, updates[1].payload)
    assert digest == state.digest(local.downlink)
    name = "model/predictor.0.weight"
    assert not torch.equal(updates[0].payload[name], local.downlink[name])
    before = ServerState(round_index=0, model=state.section(local.downlink, "model"))
    after = method.settle_each(local.desk, before, updates)
    torch.testing.assert_close(
        after.model["conv1.weight"], updates[0].payload["model/conv1.weight"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training__objective": {"name": "simclr"}},
            r"simclr as it is has not both; set it to \{name: simclr.*predictor: true\}",
        ),
        ({"training__objective": {"name": "supervised"}}, r"supervised as it is has not both"),
        (
            {"training__objective": {"name": "simclr", "predictor": True, "heads": "local"}},
            r"heads: local.*fedckd learns from.*set it to shared",
        ),
        ({"method__temperature": 0.0}, r"temperature must be positive"),
    ],
)
def test_what_it_can_not_distil_is_refused(changes: dict[str, Any], message: str, bed: Bed) -> None:
    with pytest.raises(ConfigError, match=message):
        list(federate(settings_for(**changes), bed.setting("run"), InProcess(1)))
    assert not (bed.runs / "run").exists()


def test_a_desk_has_the_predictor_of_its_objective(tiny_data: Path, tmp_path: Path) -> None:
    desk = local_of(tiny_data, tmp_path).desk
    assert isinstance(desk, MethodDesk)
    assert "predictor.0.weight" in desk.entries
