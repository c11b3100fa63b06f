"""Runs as points: over seeds, in series, and which of them nothing beats."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bed import tiny
from fedx_core.wire.messages import RoundReport, Traffic
from flows.comparing import points
from flows.comparing.points import Point
from flows.runs.record import Record
from flows.runs.run_folder import RunFolder
from flows.sweeps import paired

MIB = 2**20


def record(
    name: str, score: float, folder: Path = Path("nowhere"), *, mib: int = 10, **settings: Any
) -> Record:
    report = RoundReport(
        round_index=3, rounds=3, cohort=("a",), failures=(), metrics={"overall_accuracy": score},
        metrics_before_pruning={}, pruned=False, traffic={"a": Traffic(downlink=mib * MIB)},
        paper_bytes=0, sparsity=settings.pop("sparsity", 0.0), units_kept={}, train_loss=0.0,
        seconds={},
    )  # fmt: skip
    return Record(
        folder=RunFolder(folder / name), settings=tiny(**settings), reports=(report,), notes={}
    )


def found(*records: Record) -> list[Point]:
    return points.points(records, "overall_accuracy")


def test_runs_that_differ_in_their_seed_alone_are_one_point_with_an_interval() -> None:
    scores = [0.6, 0.7, 0.65]
    (point,) = found(*(record(f"r{n}", s, seed=n, mib=10 + n) for n, s in enumerate(scores)))
    half = paired.half_width(scores)
    assert half is not None
    assert point.score == pytest.approx(0.65)
    assert (point.low, point.high) == pytest.approx((0.65 - half, 0.65 + half))
    assert point.mib == pytest.approx(11)
    assert (point.rate, point.series) == (0.5, "fedx (magnitude)")
    assert point.runs == ("r0", "r1", "r2")


def test_points_are_means_over_the_seeds_that_all_have() -> None:
    fedavg = {"method__name": "fedavg"}
    base, pruned = found(
        record("a1", 0.9, seed=1, **fedavg), record("a2", 0.5, seed=2, **fedavg),
        record("p2", 0.4, seed=2), record("p3", 0.1, seed=3),
    )  # fmt: skip
    assert (base.runs, base.score) == (("a2",), 0.5)
    assert (pruned.runs, pruned.score) == (("p2",), 0.4)
    assert (base.low, base.rate) == (None, 0.0)


def test_series_are_named_by_what_tells_them_apart_and_rates_are_points_of_one() -> None:
    def run(name: str, rate: float, scope: str, **others: Any) -> Record:
        return record(name, 0.5, method__pruning_rate=rate, method__scope=scope, **others)

    there = found(
        run("a", 0.9, "layer"), run("b", 0.1, "layer"), run("c", 0.5, "global"),
        run("d", 0.5, "global", method__relevance={"name": "lrp"}),
    )  # fmt: skip
    assert [(p.series, p.rate) for p in there] == [
        ("fedx (magnitude, layer)", 0.1),
        ("fedx (magnitude, layer)", 0.9),
        ("fedx (magnitude, global)", 0.5),
        ("fedx (lrp)", 0.5),
    ]


def test_a_method_that_is_told_no_rate_has_what_it_removed_and_a_personal_one_has_none() -> None:
    share = {"method.prune_share": 0.1}
    (votes,) = found(record("v", 0.5, sparsity=0.4, method__name="mpfl", **share))
    (own,) = found(record("s", 0.5, method__name="spafl"))
    assert votes.rate == 0.4
    assert own.rate is None


def test_penalties_of_a_method_with_rates_are_series_and_not_points_of_one() -> None:
    dip: dict[str, Any] = {"method__name": "feddip", "method__sparsity": 0.9}
    names = {p.series for p in found(*(
        record(f"p{value}", 0.5, method__penalty=value, **dip) for value in (0.0, 0.1)
    ))}  # fmt: skip
    assert names == {"feddip (penalty 0.0)", "feddip (penalty 0.1)"}


def test_parameters_alive_are_those_of_the_model_that_are_not_zero(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    weight = torch.ones(4, 3)
    weight[1] = 0
    save_file(
        {"fc.weight": weight, "bn.running_mean": torch.ones(7)}, tmp_path / "run/model.safetensors"
    )
    (point,) = found(record("run", 0.5, tmp_path))
    assert point.alive == 9
    assert found(record("gone", 0.5, tmp_path))[0].alive is None


def at(score: float, mib: float, metric: str = "micro_map") -> Point:
    return Point(
        dataset="d", model="m", method="fedx", series="s", metric=metric, runs=("r",), rate=0.5,
        alive=None, mib=mib, score=score,
    )  # fmt: skip


def test_each_data_set_has_the_metric_of_its_labels() -> None:
    many = record("many", 0.3, dataset="countries")
    many = replace(many, reports=(replace(many.reports[-1], metrics={"micro_map": 0.3}),))
    one = record("one", 0.5)
    assert [p.metric for p in points.points([many, one])] == ["micro_map", "overall_accuracy"]
    assert [p.runs for p in points.points([many, one], "micro_map")] == [("many",)]


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    bound = at(0.99, 0)
    best = [at(0.5, 10), at(0.7, 20), at(0.9, 40)]
    beaten = [at(0.4, 10), at(0.7, 30), at(0.6, 25)]
    assert points.front([*reversed(best), *beaten, bound]) == best
    losses = [at(score, mib, "loss") for score, mib in ((0.5, 10), (0.7, 20), (0.2, 30))]
    assert points.front(losses) == [losses[0], losses[2]]


def test_numbers_that_go_along_with_the_rate_make_no_series_of_their_own() -> None:
    def run(name: str, rate: float, start: float, seed: int = 1) -> Record:
        method = {"method__name": "feddip", "method__sparsity": rate}
        return record(name, 0.5, **method, method__start_sparsity=start, seed=seed)

    there = found(run("a", 0.9, 0.5), run("b", 0.5, 0.25))
    assert [(p.series, p.rate) for p in there] == [("feddip", 0.5), ("feddip", 0.9)]
    twice = found(run("a", 0.9, 0.5), run("b", 0.5, 0.25), run("c", 0.9, 0.25))
    assert {p.series for p in twice} == {
        "feddip (start_sparsity 0.5)",
        "feddip (start_sparsity 0.25)",
    }
