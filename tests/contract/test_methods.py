"""Every method: same seed same bytes, arguments unchanged, resumable, polite with bad input."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from alone import alone, info_of
from bed import Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.base.state import StateDict
from fedx_core.clients.client import Place
from fedx_core.methods.base import Turn
from fedx_core.models import catalogue
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.rounds.start import Setting
from fedx_core.store import Store, open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport, ServerState

NAMES = plugins.names("methods")
OWN: dict[str, dict[str, Any]] = {
    "fedx": {"method__warmup_rounds": 1},
    # The data here have no public images; with them: tests/fedx_core/methods/test_fedsense.py.
    "fedsense": {"method__distil": "off"},
    "fedckd": {"training__objective": {"name": "simclr", "predictor": True}},
}
"""What a method needs in so short a run, or on these data."""
MADE: dict[str, dict[str, Any]] = {"fedx": {"pruning_rate": 0.5}, "fedsense": {"distil": "off"}}
"""The same where there is no run."""


def settings_for(name: str, **overrides: Any) -> Any:
    named = {} if name == "fedx" else {"method__name": name}
    return tiny(**{**named, "federation__rounds": 2, **OWN.get(name, {}), **overrides})


@dataclass(frozen=True)
class Run:
    """A run of two rounds, which tests compare with others and do not change."""

    store: Store
    reports: list[RoundReport]

    def model(self, round_index: int) -> StateDict:
        """The server's model as a round has left it."""
        commit = Journal(self.store).commits()[round_index]
        return checkpoint.unpack_server_state(self.store.get(commit.state)).model

    def what_came(self) -> object:
        """All of it that a seed determines."""
        return (
            state.digest(final_model(self.store)),
            [(report.traffic, report.metrics) for report in self.reports],
        )


def run(settings: ExperimentConfig, setting: Setting, workers: int = 1) -> Run:
    reports = list(federate(settings, setting, InProcess(workers)))
    return Run(open_store(setting.place.store), reports)


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """One run of each method, made when it is first asked for."""
    bed = Bed(tiny_data, tmp_path_factory.mktemp("methods"))
    return cache(lambda name: run(settings_for(name), bed.setting(name)))


Runs = Callable[[str], Run]


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_models_and_bytes_whatever_the_workers(
    name: str, runs: Runs, bed: Bed
) -> None:
    whole = runs(name)
    again = run(settings_for(name), bed.setting("again"), workers=2)
    assert again.what_came() == whole.what_came()
    other = run(settings_for(name, seed=2, federation__rounds=1), bed.setting("other"))
    same = state.equal(other.model(1), whole.model(1))
    assert not same


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_of_model_and_mask_stay_and_reports_are_complete(
    name: str, runs: Runs
) -> None:
    store, reports = runs(name).store, runs(name).reports
    first, *_, last = [
        checkpoint.unpack_server_state(store.get(commit.state))
        for commit in Journal(store).commits()
    ]
    state.require_same_layout(first.model, last.model)
    assert [report.round_index for report in reports] == [1, 2]
    assert history(store) == reports
    assert 0 <= reports[-1].metrics["overall_accuracy"] <= 1
    assert set(reports[-1].per_client) == {"client-00", "client-01", "client-02"}
    assert (reports[-1].train_loss > 0) == (name != "untrained")


@pytest.mark.parametrize("name", NAMES)
def test_resuming_after_a_round_equals_not_stopping(name: str, runs: Runs, bed: Bed) -> None:
    settings, parts = settings_for(name), bed.setting("parts")
    stopped = federate(settings, parts, InProcess(1))
    next(stopped)
    stopped.close()
    resumed = list(federate(settings, parts, InProcess(1), resume=True))
    assert [report.round_index for report in resumed] == [2]
    assert state.equal(final_model(runs(name).store), final_model(open_store(parts.place.store)))


@dataclass
class Losing(InProcess):
    """Loses one client in the first round, after it has trained."""

    def do(self, job: ClientJob, place: Place) -> Outcome:
        outcome = super().do(job, place)
        if (job.client, job.round_index) == ("client-01", 1):
            return ClientFailure(client=job.client, attempt=job.attempt, reason="away")
        return outcome


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
    if name == "untrained":
        assert not any(ref for _, ref in held[0])
        return
    memory = open_store(whole.place.memory)
    entry = "projector.0.weight" if name == "fedckd" else "fc.weight"
    steps = []
    for client, ref in held[0]:
        assert ref is not None
        kept, _ = checkpoint.unpack_state(memory.get(ref))
        rounds = sum(client in r.cohort for r in reports if (name, r.round_index) != ("mpfl", 1))
        if not rounds:
            continue
        steps.append((float(kept[f"optimiser/step/{entry}"]), rounds))
        # What the method keeps stands beside it.
        assert ("fc.weight" in kept) == (name == "local_only")
    a_round = {step / rounds for step, rounds in steps}
    assert len(a_round) == 1, "steps add up over the rounds that a client took part in"


# Of fedckd, which needs heads, in tests/fedx_core/methods/test_fedckd.py.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "fedckd"])
def test_stages_leave_their_arguments_as_they_are_and_give_the_same_again(name: str) -> None:
    method = plugins.build("methods", name, MADE.get(name, {}))
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
        after = method.settle_each(info, server, updates)
        assert after.round_index == 1
        assert state.equal(after.model, method.settle_each(info, server, updates).model)
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
    if name == "fedckd":
        with pytest.raises(DataError, match=r"'belgium'.*training.objective needs 8 in a batch"):
            list(federate(settings, bed.setting(dataset="countries"), InProcess(1)))
        return
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
    with pytest.raises(ConfigError, match="no parameter 'warmth'"):
        settings_for(name, method__warmth=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_keeps_nothing_in_itself(name: str) -> None:
    method = plugins.build("methods", name, MADE.get(name, {}))
    parts = method.parts  # built once, of the settings alone
    before = {"parts": parts, **vars(method)}
    method.start({"w": torch.zeros(2)})
    method.parts.pruner.due(ServerState(round_index=1, model={}), ())
    assert vars(method) == before
    assert parts == method.own()
