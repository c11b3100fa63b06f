"""Two models of different architecture in one federation: one file, and nothing in the core."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bed import Bed, tiny
from fedx_core import methods
from fedx_core.base.errors import ConfigError
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference

FILE = '''"""Clients with models of their own, who learn from each other's answers on public images.

Source: D. Li, J. Wang, FedMD: Heterogenous Federated Learning via Model Distillation, 2019,
https://arxiv.org/abs/1910.03581, algorithm 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from fedx_core.base import seeding, state
from fedx_core.methods import base
from fedx_core.methods.base import Wire
from fedx_core.models import catalogue
from fedx_core.wire import domains
from fedx_core.wire.messages import Entry, Schema, ServerState

SHARES = "answers/shares"


@dataclass(frozen=True, kw_only=True)
class Method(base.Method):
    """Every second client has another model than the plan's."""

    personal: ClassVar[bool] = True
    learns_from_public: ClassVar[bool] = True
    public_at_clients: ClassVar[bool] = True
    own_exchange: ClassVar[str] = "answers"

    other: str = "resnet18"
    steps: int = 3

    def variant(self, turn, desk):
        return self.other if turn.place % 2 else ""

    def architecture(self, variant):
        return variant

    def schema(self, desk, mask, mode, variant=""):
        shape = (desk.plan.public_images or 1, desk.plan.classes)
        answers = Schema((Entry(SHARES, "torch.float32", shape, domain=domains.SHARE),))
        return Wire(down=answers, up=answers)

    def downlink(self, server, desk, variant=""):
        nothing = torch.zeros(desk.plan.public_images or 1, desk.plan.classes)
        return {SHARES: server.memory.get("shares", nothing)}

    def evaluated(self, local):
        plan = local.desk.plan
        if local.memory:
            local.model.load_state_dict(local.memory)
        else:
            seed = seeding.derive(7, plan.model)
            fresh = catalogue.build(plan.model, plan.bands, plan.classes, seed)
            local.model.load_state_dict(fresh.state_dict())

    def train(self, local):
        self.evaluated(local)
        plan, public = local.desk.plan, local.desk.public
        taught = local.downlink[SHARES]
        if taught.any():
            seen = plan.pixels.to_input(public.images, local.desk.device)
            optimiser = torch.optim.Adam(local.model.train().parameters(), lr=1e-3)
            for _ in range(self.steps):
                loss = functional.kl_div(
                    local.model(seen).log_softmax(1), taught, reduction="batchmean"
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        loss = local.fit(None)
        shares = local.desk.predict(local.model, public).softmax(1).clamp(0, 1)
        return local.update({SHARES: shares}, loss, state.copy(local.model.state_dict()))

    def contribution(self, desk, update):
        return update.examples, {"shares": update.payload[SHARES]}

    def settle(self, desk, before, total):
        memory = {"shares": total.mean()["shares"]}
        return ServerState(round_index=before.round_index + 1, model=before.model, memory=memory)
'''
PUBLIC = {"datasets__synthetic__reference__public": 12}


@pytest.fixture(autouse=True)
def fedmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "fedmd.py").write_text(FILE)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "plugins")])
    yield
    sys.modules.pop("fedx_core.methods.fedmd", None)


@pytest.fixture(scope="module")
def with_public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    for stage in (prepare, partition, reference):
        stage(tiny(**PUBLIC), "synthetic", root)
    return root


def run(bed: Bed, name: str, workers: int = 1, rounds: int = 2) -> dict[str, dict[str, int]]:
    """Run it, and count the values of what each client keeps."""
    setting = bed.setting(name)
    settings = tiny(method__name="fedmd", federation__rounds=rounds, **PUBLIC)
    resume = Journal(open_store(setting.place.store)).run() is not None
    list(federate(settings, setting, InProcess(workers), resume=resume))
    memories = open_store(setting.place.memory)
    last = Journal(open_store(setting.place.store)).commits()[-1]
    kept = {}
    for client, holding in last.holdings.items():
        assert holding.memory is not None
        tensors, _ = checkpoint.unpack_state(memories.get(holding.memory))
        kept[client] = {name: value.numel() for name, value in tensors.items()}
    return kept


def hashes(bed: Bed, name: str) -> tuple[str, ...]:
    last = Journal(open_store(bed.setting(name).place.store)).commits()[-1]
    return (last.state.sha256, *(h.memory.sha256 for h in last.holdings.values() if h.memory))


def test_a_small_and_a_large_model_learn_from_each_other_by_a_few_bytes(
    with_public: Path, tmp_path: Path
) -> None:
    bed = Bed(with_public, tmp_path / "runs")
    kept = run(bed, "one")
    sizes = {client: sum(values.values()) for client, values in kept.items()}
    assert sizes["client-00"] == sizes["client-02"] < 400_000 < 11_000_000 < sizes["client-01"]
    for report in history(open_store(bed.setting("one").place.store)):
        assert {sent.uplink for sent in report.traffic.values()} == {64 + 4 * 12 * 10}
        assert 0 <= report.metrics["overall_accuracy"] <= 1
    run(bed, "two", workers=2)
    assert hashes(bed, "two") == hashes(bed, "one")
    run(bed, "stopped", rounds=1)
    run(bed, "stopped")
    assert hashes(bed, "stopped") == hashes(bed, "one")


def test_models_that_travel_must_be_the_same(
    with_public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plugins" / "fedmd.py"
    lines = file.read_text().partition("    def schema(")[0]
    file.write_text(lines.replace('own_exchange: ClassVar[str] = "answers"', "pass"))
    settings = tiny(method__name="fedmd", **PUBLIC)
    bed = Bed(with_public, tmp_path / "runs")
    with pytest.raises(ConfigError, match="fedmd gives client-01 the model resnet18, whose payl"):
        list(federate(settings, bed.setting("refused"), InProcess(1)))
