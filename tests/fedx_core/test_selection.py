import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.config import ExperimentConfig, SelectionConfig
from fedx_core.base.errors import ConfigError
from fedx_core.images import set_folder
from fedx_core.learning import evaluation
from fedx_core.pruning.schedule import Schedule
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import best_model, federate, final_model, history
from fedx_core.rounds.retention import collect_garbage
from fedx_core.rounds.selection import Standing, check, standing
from fedx_core.rounds.start import load, open_server
from fedx_core.store import FileStore, open_store
from fedx_core.wire.messages import RoundReport

CHOICE = SelectionConfig(metric="overall_accuracy", patience=2, min_delta=0.0)
UNREACHABLE = {"metric": "overall_accuracy", "patience": 1, "min_delta": 10.0}


def judged(*scores: float, pruned: int = 0, metric: str = "overall_accuracy") -> list[RoundReport]:
    """Reports of rounds with these scores; a pruning event took place after round ``pruned``."""
    return [
        RoundReport(
            round_index=index, rounds=99, cohort=(), failures=(), metrics={},
            metrics_before_pruning={}, pruned=index == pruned, traffic={}, paper_bytes=0,
            sparsity=0.0, units_kept={}, train_loss=0.0, seconds={}, validation={metric: score},
        )
        for index, score in enumerate(scores, start=1)
    ]  # fmt: skip


def settings_with(**overrides: Any) -> ExperimentConfig:
    return tiny(federation__selection=UNREACHABLE, federation__rounds=6, **overrides)


def start(bed: Bed, **overrides: Any) -> Iterator[RoundReport]:
    return federate(tiny(**overrides), bed.setting(), InProcess(1))


@pytest.mark.parametrize(
    ("scores", "pruned", "best", "stops"),
    [
        ([0.1, 0.3, 0.2], 0, 2, False),
        ([0.1, 0.3, 0.2, 0.3], 0, 2, True),
        ([0.1, 0.3, 0.2, 0.31], 0, 4, False),
        ([0.9, 0.8, 0.2, 0.3], 3, 4, False),
        ([0.9, 0.8, 0.3, 0.2], 3, 3, False),
        ([0.9, 0.8, 0.3, 0.2, 0.3], 3, 3, True),
        ([math.nan, 0.1], 0, 2, False),
        ([0.1, math.nan, math.nan], 0, 1, True),
    ],
)
def test_rounds_compete_from_the_last_pruning_event_on_and_patience_counts_from_the_best(
    scores: list[float], pruned: int, best: int, stops: bool
) -> None:
    found = standing(judged(*scores, pruned=pruned), CHOICE, more_to_come=False)
    assert (found.best_round, bool(found.stopped)) == (best, stops)


def test_a_run_waits_for_pruning_events_to_come_and_without_patience_for_ever() -> None:
    reports = judged(0.3, 0.2, 0.1, 0.1)
    said = standing(reports, CHOICE, more_to_come=False).stopped
    assert said == "no gain in validation overall_accuracy for 3 rounds after round 1"
    assert standing(reports, CHOICE, more_to_come=True) == Standing(1, "")
    patient = replace(CHOICE, patience=0)
    assert standing(reports, patient, more_to_come=False) == Standing(1, "")


def test_a_gain_must_exceed_min_delta_and_a_lower_loss_is_a_gain() -> None:
    choice = replace(CHOICE, min_delta=0.1)
    assert standing(judged(0.3, 0.4, 0.39), choice, more_to_come=False).best_round == 1
    assert standing(judged(0.3, 0.35, 0.45), choice, more_to_come=False).best_round == 3
    by_loss = replace(CHOICE, metric="loss")
    reports = judged(0.3, 0.2, 0.25, metric="loss")
    assert standing(reports, by_loss, more_to_come=False).best_round == 2


def test_the_schedule_knows_its_last_event() -> None:
    for schedule in (Schedule(0.5, 3), Schedule(0.5, 3, 2, 4)):
        rounds = [r for r in range(1, 30) if schedule.rate_after(r) is not None]
        assert schedule.last_round == rounds[-1]
    assert Schedule(0.0, 3).last_round == 0


def test_a_tuning_set_that_bears_no_label_judges_by_loss_alone() -> None:
    blank = np.zeros((4, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"no image of the tuning set bears a label.*choose loss"):
        check(replace(CHOICE, metric="micro_map"), "multi", blank, personal=False)
    check(replace(CHOICE, metric="loss"), "multi", blank, personal=False)


def test_a_round_without_the_score_is_never_the_best() -> None:
    without = [replace(report, validation={"loss": 1.0}) for report in judged(0.1, 0.2)]
    later = [replace(r, round_index=r.round_index + 2) for r in judged(0.3, 0.2)]
    assert standing([*without, *later], CHOICE, more_to_come=False) == Standing(3, "")
    assert standing(without, CHOICE, more_to_come=False).best_round == 1


def test_rounds_that_cannot_be_judged_are_refused_before_the_run(bed: Bed) -> None:
    check(CHOICE, "single", np.zeros(1, int), personal=False)
    for setting, wanted in (
        ({"metric": "micro_map"}, "choose one of overall_accuracy, macro_f1, loss"),
        ({"patience": -1}, "federation.selection.patience must be 0 or more"),
        ({"min_delta": -0.1}, "federation.selection.min_delta must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            next(start(bed, federation__selection=UNREACHABLE | setting))
    with pytest.raises(ConfigError, match="without a global model"):
        next(start(bed, federation__selection=UNREACHABLE, method__name="local_only"))
    with pytest.raises(ConfigError, match=r"lower the data set's reference\.per_class"):
        check(CHOICE, "single", np.zeros(0, int), personal=False)
    assert Journal(open_store(bed.setting().place.store)).run() is None


def test_metrics_are_those_that_the_evaluation_yields(bed: Bed) -> None:
    for name in ("synthetic", "countries"):
        prepared = set_folder.read(bed.data / name / "prepared")
        labels = prepared.parts["test"].labels
        logits = torch.zeros(len(labels), len(prepared.description.class_names))
        kind = prepared.description.label_kind
        assert tuple(evaluation.metrics(logits, labels, kind)) == evaluation.METRICS[kind]


def test_a_stopped_run_is_finished_has_all_extras_and_stays_so(bed: Bed) -> None:
    setting = bed.setting()
    reports = list(federate(settings_with(), setting, InProcess(1)))
    assert [r.round_index for r in reports] == [1, 2, 3], "pruned after 2, no gain in 3"
    *before, last = reports
    assert [r.best_round for r in reports] == [1, 2, 2]
    assert not any(r.stopped or r.per_class or r.per_client for r in before)
    assert last.stopped == "no gain in validation overall_accuracy for 1 rounds after round 2"
    assert last.per_class
    assert set(last.per_client) == {"client-00", "client-01", "client-02"}
    more = replace(settings_with().federation, rounds=9)
    asked = replace(settings_with(), federation=more)
    assert list(federate(asked, setting, InProcess(1), resume=True)) == []
    assert len(history(open_store(setting.place.store))) == 3


def test_scores_are_the_tuning_sets_and_the_best_state_is_kept(bed: Bed) -> None:
    setting = bed.setting()
    settings = tiny(
        method__name="fedavg",
        federation__rounds=5,
        federation__keep_states=1,
        federation__selection={"metric": "overall_accuracy", "patience": 0, "min_delta": 10.0},
    )
    reports = list(federate(settings, setting, InProcess(1)))
    assert [r.best_round for r in reports] == [1] * 5
    store = open_store(setting.place.store)
    assert len(list((Path(setting.place.store) / "states").iterdir())) == 2
    collect_garbage(setting.place, keep_states=1)
    model = best_model(store)
    assert model is not None
    short = bed.setting("short")
    list(federate(replace(settings, federation=replace(settings.federation, rounds=1)), short,
                  InProcess(1)))  # fmt: skip
    assert state.equal(model, final_model(open_store(short.place.store)))
    commit = Journal(store).commits()[1]
    found = checkpoint.unpack_server_state(store.get(commit.state)).model
    assert state.equal(found, model)
    server = open_server(
        settings, setting, InProcess(1), Journal(store), load(setting, settings), commit.plan
    )
    server.desk.model.load_state_dict(model)
    tuning = set_folder.read(setting.data / "reference").parts["tuning"]
    logits = evaluation.predict(
        server.desk.model, tuning, pixels=server.desk.plan.pixels, batch_size=7,
        device=server.desk.device,
    )  # fmt: skip
    found_by_hand = evaluation.metrics(logits, tuning.labels, "single")
    assert reports[0].validation == pytest.approx(found_by_hand)
    assert reports[0].validation != reports[0].metrics


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.95])
def test_a_killed_run_stops_at_the_same_round_with_the_same_best_model(
    share: float, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, original = settings_with(federation__keep_states=1), FileStore._write_beside
    writes = itertools.count(1)

    def counted(self: FileStore, path: Path, data: Any) -> Path:
        if next(writes) == fatal:
            raise Killed
        return original(self, path, data)

    fatal = -1
    monkeypatch.setattr(FileStore, "_write_beside", counted)
    list(federate(settings, bed.setting("whole"), InProcess(1)))
    fatal, writes = round(share * next(writes)), itertools.count(1)
    with pytest.raises(Killed):
        list(federate(settings, bed.setting("parts"), InProcess(1)))
    list(federate(settings, bed.setting("parts"), InProcess(1), resume=True))
    whole, parts = (open_store(bed.setting(name).place.store) for name in ("whole", "parts"))
    for found in (best_model, final_model):
        left, right = found(whole), found(parts)
        assert left is not None
        assert right is not None
        assert state.equal(left, right)
    same = [[(r.validation, r.best_round, r.stopped) for r in history(s)] for s in (whole, parts)]
    assert same[0] == same[1]


def test_a_branch_judges_its_own_rounds_alone(bed: Bed) -> None:
    base, branch = bed.setting("base"), bed.setting("branch")
    settings = settings_with(method__name="fedavg", federation__keep_states=9)
    stopped = list(federate(settings, base, InProcess(1)))
    assert stopped[-1].stopped
    shared = Branch(store=base.place.store, round_index=2)
    reports = list(federate(settings_with(), branch, InProcess(1), branch=shared))
    assert [r.best_round for r in history(open_store(branch.place.store))] == [0, 2, 2]
    assert [r.round_index for r in reports] == [2, 3]
    whole = bed.setting("whole")
    list(federate(settings_with(), whole, InProcess(1)))
    best = [best_model(open_store(s.place.store)) for s in (whole, branch)]
    assert state.equal(*best)
