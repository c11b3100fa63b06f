"""A server that distils its clients' models on public images: one file, and nothing in the core."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core import methods
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.images import set_folder
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

FILE = '''"""The mean of the clients' models, taught by all of them on public images.

Source: T. Lin et al., Ensemble Distillation for Robust Model Fusion in Federated Learning,
NeurIPS 2020, https://arxiv.org/abs/2006.07242, algorithm 1.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional

from fedx_core.base import seeding, state
from fedx_core.methods import base


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """FedAvg whose server distils.

    Args:
        steps: of distillation a round.
    """

    sees_each: ClassVar[bool] = True
    learns_from_public: ClassVar[bool] = True

    steps: int = 3

    def settle_each(self, desk, before, updates):
        averaged = super().settle_each(desk, before, updates)
        teachers = []
        for update in updates:
            sent = {**before.model, **state.section(update.payload, "model")}
            teachers.append(desk.predict(desk.loaded(sent, None), desk.public))
        taught = torch.stack(teachers).mean(0).softmax(1).to(desk.device)
        student = desk.loaded(averaged.model, None).to(desk.device).eval()
        optimiser = torch.optim.Adam(student.parameters(), lr=1e-3)
        random = seeding.torch_generator(seeding.derive(desk.seed, averaged.round_index, "distil"))
        for _ in range(self.steps):
            chosen = torch.randperm(len(desk.public), generator=random)[:8]
            images = desk.plan.pixels.to_input(desk.public.images[chosen.numpy()], desk.device)
            logits = student(images).log_softmax(1)
            loss = functional.kl_div(logits, taught[chosen], reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model = state.copy(student.to("cpu").state_dict())
        return replace(averaged, model=model)
'''
PUBLIC = {"datasets__synthetic__reference__public": 12}


@pytest.fixture
def feddf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "feddf.py").write_text(FILE)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "plugins")])
    yield
    sys.modules.pop("fedx_core.methods.feddf", None)


@pytest.fixture(scope="module")
def with_public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    for stage in (prepare, partition, reference):
        stage(tiny(**PUBLIC), "synthetic", root)
    return root


def digest(bed: Bed, run: str, workers: int = 1, **overrides: Any) -> str:
    setting = bed.setting(run)
    settings = tiny(**{"federation__rounds": 2, **overrides})
    list(federate(settings, setting, InProcess(workers)))
    return state.digest(final_model(open_store(setting.place.store)))


@pytest.mark.usefixtures("feddf")
def test_it_learns_from_images_that_nobody_has_labelled_and_repeats_itself(
    with_public: Path, tmp_path: Path
) -> None:
    public = set_folder.read(with_public / "synthetic" / "reference").parts["public"]
    assert len(public) == 12
    assert not public.labels.any(), "nobody has labelled them"
    bed = Bed(with_public, tmp_path / "runs")
    found = [digest(bed, run, n, method__name="feddf", **PUBLIC) for run, n in (("a", 1), ("b", 2))]
    assert found[0] == found[1]
    assert digest(bed, "plain", method__name="fedavg", **PUBLIC) != found[0]
    assert digest(bed, "seed", method__name="feddf", seed=2, **PUBLIC) != found[0]
    stopped = bed.setting("stopped")
    settings = tiny(federation__rounds=2, method__name="feddf", **PUBLIC)
    going = federate(settings, stopped, InProcess(1))
    next(going)
    going.close()
    list(federate(settings, stopped, InProcess(1), resume=True))
    assert state.digest(final_model(open_store(stopped.place.store))) == found[0]


@pytest.mark.usefixtures("feddf")
def test_without_public_images_it_is_refused_before_the_run(bed: Bed) -> None:
    with pytest.raises(
        ConfigError,
        match=r"feddf learns from public images.*reference\.public.*fedx data synthetic",
    ):
        digest(bed, "refused", method__name="feddf")
    assert not (bed.runs / "refused").exists()
