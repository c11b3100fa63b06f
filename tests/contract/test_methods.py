"""Every method: same seed same bytes, arguments unchanged, resumable, polite with bad input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from alone import alone, info_of
from bed import Bed, tiny
from fedx_core import checkpoint, plugins, state
from fedx_core.client import Place
from fedx_core.errors import ConfigError
from fedx_core.federation import federate, final_model, history
from fedx_core.journal import Journal
from fedx_core.messages import ClientFailure, ClientJob, ServerState
from fedx_core.methods.base import Turn
from fedx_core.models import catalogue
from fedx_core.runtime import InProcess, Outcome
from fedx_core.start import Branch
from fedx_core.store import open_store

NAMES = plugins.names("methods")


def settings_for(name: str, **overrides: Any) -> Any:
    return (
        tiny(**{"method__name": name, "federation__rounds": 2, **overrides})
        if (name != "fedx")
        else tiny(**{"method__warmup_rounds": 1, "federation__rounds": 2, **overrides})
    )


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_models_and_bytes_whatever_the_workers(name: str, bed: Bed) -> None:
    found = []
    for run, workers in (("a", 1), ("b", 2)):
        setting = bed.setting(run)
        reports = list(federate(settings_for(name), setting, InProcess(workers)))
        store = open_store(setting.place.store)
        traffic = [report.traffic for report in reports]
        found.append((state.digest(final_model(store)), traffic, [r.metrics for r in reports]))
    assert found[0] == found[1]
    other = bed.setting("c")
    list(federate(settings_for(name, seed=2), other, InProcess(1)))
    same = state.digest(final_model(open_store(other.place.store))) == found[0][0]
    assert not same


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_of_model_and_mask_stay_and_reports_are_complete(
    name: str, bed: Bed
) -> None:
    setting = bed.setting()
    reports = list(federate(settings_for(name), setting, InProcess(1)))
    store = open_store(setting.place.store)
    first, *_, last = [
        checkpoint.unpack_server_state(store.get(commit.state))
        for commit in Journal(store).commits()
    ]
    state.require_same_layout(first.model, last.model)
    assert [report.round_index for report in reports] == [1, 2]
    assert history(store) == reports
    assert 0 <= reports[-1].metrics["overall_accuracy"] <= 1
    assert set(reports[-1].per_client) == {"client-00", "client-01", "client-02"}
    assert reports[-1].train_loss > 0


@pytest.mark.parametrize("name", NAMES)
def test_resuming_after_a_round_equals_not_stopping(name: str, bed: Bed) -> None:
    settings = settings_for(name)
    whole, parts = bed.setting("whole"), bed.setting("parts")
    list(federate(settings, whole, InProcess(1)))
    stopped = federate(settings, parts, InProcess(1))
    next(stopped)
    stopped.close()
    resumed = list(federate(settings, parts, InProcess(1), resume=True))
    assert [report.round_index for report in resumed] == [2]
    models = [final_model(open_store(s.place.store)) for s in (whole, parts)]
    assert state.equal(*models)


@dataclass(frozen=True)
class Losing(InProcess):
    """Loses one client in the first round, after it has trained."""

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        for outcome in super().run_cohort(jobs, place):
            if (outcome.client, jobs[0].round_index) == ("client-01", 1):
                yield ClientFailure(client=outcome.client, attempt=outcome.attempt, reason="away")
            else:
                yield outcome


@pytest.mark.parametrize("name", [name for name in NAMES if name != "centralised"])
def test_a_lost_client_is_left_out_and_comes_back(name: str, bed: Bed) -> None:
    settings = settings_for(name, federation__min_reports=2, federation__attempts=1)
    setting = bed.setting()
    reports = list(federate(settings, setting, Losing(1)))
    assert [[f.client for f in report.failures] for report in reports] == [["client-01"], []]
    assert "client-01" in reports[1].client_metrics
    state.require_finite(final_model(open_store(setting.place.store)), "the server")


@pytest.mark.parametrize("name", NAMES)
def test_kept_moments_survive_a_resume_and_rounds_without_the_client(name: str, bed: Bed) -> None:
    settings = settings_for(
        name,
        training__optimiser_state="kept",
        federation__participation=0.3,
        federation__rounds=4,
        # Votes start afresh in every round, and leave moments as they were.
        **({"method__iterations": 1} if name == "mpfl" else {}),
    )
    whole, parts = bed.setting("whole"), bed.setting("parts")
    reports = list(federate(settings, whole, InProcess(2)))
    assert name == "centralised" or len({report.cohort for report in reports}) > 1
    for _ in range(4):
        going = Path(parts.place.store).exists()
        stopped = federate(settings, parts, InProcess(1), resume=going)
        next(stopped)
        stopped.close()
    commits = [Journal(open_store(s.place.store)).commits()[-1] for s in (whole, parts)]
    assert commits[0].state.sha256 == commits[1].state.sha256
    held = [[(c, h.memory) for c, h in commit.holdings.items()] for commit in commits]
    assert held[0] == held[1]
    memory = open_store(whole.place.memory)
    steps = []
    for client, ref in held[0]:
        assert ref is not None
        kept, _ = checkpoint.unpack_state(memory.get(ref))
        rounds = sum(client in r.cohort for r in reports if (name, r.round_index) != ("mpfl", 1))
        if not rounds:
            continue
        steps.append((float(kept["optimiser/step/fc.weight"]), rounds))
        # What the method keeps stands beside it.
        assert ("fc.weight" in kept) == (name == "local_only")
    a_round = {step / rounds for step, rounds in steps}
    assert len(a_round) == 1, "steps add up over the rounds that a client took part in"


@pytest.mark.parametrize("name", NAMES)
def test_stages_leave_their_arguments_as_they_are_and_give_the_same_again(name: str) -> None:
    method = plugins.build("methods", name, {"pruning_rate": 0.5} if name == "fedx" else {})
    info = info_of()
    model = catalogue.build("resnet6", 3, 4, seed=1)
    server = method.start(state.copy(model.state_dict()))
    seen = []
    for place in (0, 1):
        turn = Turn(client="a", place=place, round_index=1, purpose="train", returning=False)
        variant = method.variant(turn, info)
        local = alone(
            downlink=method.downlink(server, info, variant), mask=server.mask, variant=variant
        )
        given = [state.digest(part) for part in (server.model, server.memory, local.downlink)]
        updates = [method.train(local), method.train(local)]
        wire = method.schema(info, server.mask, None, variant)
        assert list(local.downlink) == [entry.name for entry in wire.down.entries]
        assert list(updates[0].payload) == [entry.name for entry in wire.up.entries]
        assert state.equal(updates[0].payload, updates[1].payload)
        assert [u.metrics for u in updates[:1]] == [u.metrics for u in updates[1:]]
        sent = state.digest(updates[0].payload)
        after = method.aggregate(server, updates, info)
        assert after.round_index == 1
        assert state.equal(after.model, method.aggregate(server, updates, info).model)
        assert sent == state.digest(updates[0].payload)
        parts = (server.model, server.memory, local.downlink)
        assert given == [state.digest(part) for part in parts]
        seen.append(variant)
    assert (len(set(seen)) > 1) == (name == "fedlp_hetero")


@pytest.mark.parametrize("name", ["fedlp_hetero", "mpfl", "spafl"])
def test_a_run_may_branch_from_fedavg_into_a_method_with_payloads_of_its_own(
    name: str, bed: Bed
) -> None:
    shared = bed.setting("shared")
    list(federate(settings_for("fedavg", federation__rounds=1), shared, InProcess(1)))
    branch = Branch(store=shared.place.store, round_index=1)
    setting = bed.setting("branch")
    reports = list(federate(settings_for(name), setting, InProcess(1), branch=branch))
    assert [report.round_index for report in reports] == [1, 2]
    models = [final_model(open_store(s.place.store)) for s in (shared, setting)]
    if name == "spafl":
        assert state.equal(*models), "clients begin where FedAvg stopped"
    assert reports[1].train_loss > 0


@pytest.mark.parametrize("name", NAMES)
def test_multi_label_data_and_partial_participation_work(name: str, bed: Bed) -> None:
    settings = settings_for(name, dataset="countries", federation__participation=0.5)
    reports = list(federate(settings, bed.setting(dataset="countries"), InProcess(1)))
    assert 0 < reports[-1].metrics["micro_map"] < 1
    if name != "centralised" and not plugins.load("methods", name).personal:
        assert "label_frequency_micro_map" in reports[-1].metrics
    if name != "centralised":
        assert len(reports[0].cohort) == 4
    method = settings.method.build("methods")
    cohorts = {method.cohort(list("abcdefgh"), 0.5, r, 1) for r in range(1, 9)}
    assert len(cohorts) > 1 or name == "centralised"


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no parameter 'temperature'"):
        settings_for(name, method__temperature=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_keeps_nothing_in_itself(name: str) -> None:
    method = plugins.build("methods", name, {"pruning_rate": 0.5} if name == "fedx" else {})
    before = dict(vars(method))
    method.start({"w": torch.zeros(2)})
    method.criterion(ServerState(round_index=1, model={}))
    assert vars(method) == before
