"""Runs side by side: numbers from reports written by hand, and the command on runs that ran."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import tiny
from fedx_core.base.errors import ConfigError
from fedx_core.wire.messages import ClientFailure, RoundReport, Traffic
from flows.base import tables
from flows.comparing import compare
from flows.runs.record import Record
from flows.runs.run_folder import RunFolder

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")
MIB = 2**20


def report(index: int, score: float, traffic: Traffic, **more: Any) -> RoundReport:
    values: dict[str, Any] = {
        "rounds": 3,
        "cohort": ("a", "b"),
        "failures": (),
        "metrics": {"overall_accuracy": score, "loss": 1 - score},
        "metrics_before_pruning": {},
        "pruned": False,
        "traffic": {"a": traffic},
        "paper_bytes": 3 * MIB,
        "dense_bytes": 4 * MIB,
        "sparsity": 0.0,
        "units_kept": {},
        "train_loss": 1.0,
        "seconds": {"train": 2.0, "evaluate": 1.0},
    }
    return RoundReport(round_index=index, **(values | more))


def record(name: str, reports: Sequence[RoundReport], **settings: Any) -> Record:
    return Record(
        folder=RunFolder(Path(name)), settings=tiny(**settings), reports=tuple(reports), notes={}
    )


FULL = Traffic(downlink=4 * MIB, uplink=4 * MIB)
HALF = Traffic(downlink=2 * MIB, uplink=2 * MIB, mask=MIB, retry=MIB)
BASE = record(
    "base", [report(1, 0.5, FULL), report(2, 0.8, FULL), report(3, 0.7, FULL)],
    method__name="fedavg",
)  # fmt: skip
PRUNED = record(
    "pruned",
    [
        report(1, 0.5, HALF, failures=(ClientFailure(client="b", reason="late", attempt=0),)),
        # The score at the end of the round is the one after pruning.
        report(2, 0.4, HALF, metrics_before_pruning={"overall_accuracy": 0.9}, pruned=True),
        report(3, 0.75, HALF, sparsity=0.5),
    ],
)


def test_rows_follow_their_definitions() -> None:
    base, pruned = compare.rows([BASE, PRUNED], targets=(0.75, 0.95))
    assert compare.equal_mib([BASE, PRUNED]) == 18
    assert base == {
        "run": "base", "dataset": "synthetic", "model": "resnet6_w8", "method": "fedavg",
        "relevance": None, "pruning_rate": None, "seed": 1, "rounds": 3, "rounds_planned": 3,
        "final": 0.7, "validation": None, "best": 0.8, "best_round": 2,
        "equal_bytes": 0.8,  # of 8, 16, 24 MiB, 16 is the last within 18
        "mib_down": 12, "mib_up": 12, "mib_total": 24, "mib_paper": 9,
        "ratio_down": 1, "ratio_up": 1, "ratio_total": 1,
        "sparsity": 0.0, "seconds": 9.0, "clients_lost": 0,
        "mib_to_0.75": 16, "rounds_to_0.75": 2, "mib_to_0.95": None, "rounds_to_0.95": None,
    }  # fmt: skip
    assert list(pruned) == list(base)
    assert (pruned["relevance"], pruned["pruning_rate"]) == ("magnitude", 0.5)
    assert (pruned["mib_down"], pruned["mib_up"], pruned["mib_total"]) == (9, 6, 18)
    assert (pruned["mib_to_0.75"], pruned["rounds_to_0.75"]) == (18, 3)
    assert (pruned["ratio_down"], pruned["ratio_up"]) == (12 / 9, 2)
    assert (pruned["equal_bytes"], pruned["sparsity"], pruned["clients_lost"]) == (0.75, 0.5, 1)


def test_less_loss_is_better() -> None:
    [base] = compare.rows([BASE], metric="loss", targets=(0.3,))
    assert (base["best"], base["best_round"]) == (pytest.approx(0.2), 2)
    assert base["rounds_to_0.3"] == 2
    with pytest.raises(ConfigError, match="choose one of loss, overall_accuracy"):
        compare.rows([BASE], metric="accuracy")


def test_the_best_round_is_the_chosen_one_where_tuning_images_chose() -> None:
    judged = [report(n, s, FULL, best_round=b) for n, s, b in [(1, 0.9, 1), (2, 0.6, 2)]]
    [row] = compare.rows([record("judged", judged)])
    assert (row["best"], row["best_round"]) == (0.6, 2)


def test_a_run_that_sends_nothing_sets_no_budget_and_wins_no_bytes() -> None:
    bound = record("bound", [report(1, 0.6, Traffic())], method__name="centralised")
    assert compare.equal_mib([bound, BASE]) == 24
    assert compare.equal_mib([bound]) is None
    rows = compare.rows([bound, BASE, PRUNED])
    assert rows[0]["equal_bytes"] == 0.6
    column = tables.Column("mib_total", "MiB", "{:.0f}".format, "less")
    assert tables.cells(column, rows) == ["0  ", "24  ", "18 *"]


def test_settings_that_differ_are_listed_and_those_with_a_column_are_not() -> None:
    longer = record("longer", BASE.reports, method__name="fedavg", training__epochs=2, seed=2)
    assert compare.differing([BASE, longer]) == {"training.epochs": {"base": 1, "longer": 2}}
    found = compare.differing([BASE, PRUNED])
    assert found["method.warmup_rounds"] == {"base": None, "pruned": 2}
    assert not set(found) & set(compare.NAMED)


def test_what_can_not_be_compared_is_said() -> None:
    assert compare.warnings([BASE, PRUNED]) == []
    other = record("other", BASE.reports, datasets__synthetic__source__test=50)
    [line] = compare.warnings([BASE, PRUNED, other])
    assert "not the same test images: base, pruned on synthetic; other on synthetic" in line
    then, now = (
        replace(record(name, BASE.reports), notes={"run": name, "content": {"test": content}})
        for name, content in (("then", "a"), ("now", "b"))
    )
    assert compare.warnings([BASE, then, PRUNED]) == []  # older runs do not say
    [line] = compare.warnings([BASE, then, now])
    assert "prepared anew in between, not the same test images: then; now" in line
    groups = compare.by_images([BASE, other, PRUNED])
    assert [[run.name for run in group] for group in groups] == [["base", "pruned"], ["other"]]
    personal = record("own", BASE.reports[:2], method__name="local_only")
    lines = compare.warnings([BASE, personal])
    assert "own: scored at the clients" in lines[0]
    assert lines[1:] == ["own: not finished"]
    many = [report(1, 0.5, FULL, metrics={"micro_map": 0.5})]
    lines = compare.warnings([BASE, record("many", many, dataset="countries")])
    assert "not the same test images" in lines[0]
    assert "many: no overall_accuracy" in lines[1]
    # A run of its own stopped early, and is as finished as any.
    early = record("early", [report(1, 0.5, FULL, stopped="no better for 5 rounds")])
    assert compare.warnings([BASE, early]) == []


def test_columns_that_do_not_fit_go_into_a_table_below() -> None:
    rows = [{"run": "a-long-name", "x": 1.0, "y": 2.0}, {"run": "b", "x": 3.0, "y": None}]
    columns = [
        tables.Column("run", "run"),
        tables.Column("x", "score", "{:.1f}".format, "more"),
        tables.Column("y", "MiB", "{:.1f}".format, "less"),
    ]
    titles = [[c.title for c in part] for part in tables.fitting(columns, rows, 25)]
    assert titles == [["run", "score", "MiB"]]  # 11 + 2 + 5 + 2 + 3 characters are 23
    titles = [[c.title for c in part] for part in tables.fitting(columns, rows, 22)]
    assert titles == [["run", "score"], ["run", "MiB"]]
    titles = [[c.title for c in part] for part in tables.fitting(columns, rows, 5)]
    assert titles == [["run", "score"], ["run", "MiB"]]
    assert tables.cells(columns[1], rows) == ["1.0  ", "3.0 *"]
    assert tables.cells(columns[2], rows) == ["2.0", "-"]


def test_the_command_shows_all_runs_or_the_named_ones(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    assert fedx("compare") == 1
    assert "no run with a finished round in runs; start one with" in capsys.readouterr().err
    short = (*QUIETLY, "--rounds", "2")
    assert fedx("run", *short, "--run", "base", "--method", "fedavg") == 0
    assert fedx("run", *short, "--run", "a-pruned", "--warmup-rounds", "1", "--seed", "2") == 0
    (tmp_path / "runs" / "begun").mkdir()
    capsys.readouterr()

    assert fedx("compare", "--json", "--at-accuracy", "0", "--csv", "out/runs.csv") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in found["runs"]] == ["a-pruned", "base"]
    assert found["metric"] == "overall_accuracy"
    for row in found["runs"]:
        path = tmp_path / "runs" / row["run"] / "results" / "summary.json"
        summary = json.loads(path.read_text())
        assert row["mib_total"] == summary["wire_bytes"]["total"] / MIB
        assert row["final"] == summary["metrics"]["overall_accuracy"]
        assert row["rounds_to_0"] == 1
    assert found["equal_mib"] == min(row["mib_total"] for row in found["runs"])
    with Path("out/runs.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["a-pruned", "base"]

    assert fedx("compare", "--bytes", "--json") == 0
    front = {point["runs"]: point for point in json.loads(capsys.readouterr().out)["front"]}
    runs = {row["run"]: row for row in found["runs"]}
    assert runs["base"]["ratio_total"] == 1 < runs["a-pruned"]["ratio_total"]
    assert front["a-pruned"]["ratio"] == runs["a-pruned"]["ratio_total"]
    better = runs["base"]["final"] > runs["a-pruned"]["final"]
    assert ("base" in front) == better, "it sends more, so it must score more"
    assert fedx("compare", "--bytes") == 0
    assert "no other sends fewer bytes and scores as well" in capsys.readouterr().out

    assert fedx("compare", "base", "runs/a-pruned") == 0
    said = capsys.readouterr()
    assert not said.err
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["run", "base", "a-pruned"]
    assert lines[0].split()[1:6] == ["method", "relevance", "q", "seed", "rounds"]
    assert "  method.warmup_rounds" in lines
    assert " *" in said.out
    # On other images there is no best.
    path = tmp_path / "runs" / "a-pruned" / "config.yaml"
    plain = yaml.safe_load(path.read_text())
    plain["datasets"]["synthetic"]["source"]["test"] = 1
    path.write_text(yaml.safe_dump(plain))
    assert fedx("compare", "base", "a-pruned") == 0
    said = capsys.readouterr()
    assert "not the same test images" in said.err
    assert "*" not in said.out
    assert fedx("compare", "nobody") == 1
    assert "no run 'nobody'" in capsys.readouterr().err


def test_figures_are_drawn_of_whatever_runs_are_compared(
    fedx: Fedx, base: RunFolder, tmp_path: Path, capsys: Said
) -> None:
    assert fedx("compare", "base", "--figures", "drawn", "--json") == 0
    files = [Path(name) for name in json.loads(capsys.readouterr().out)["figures"]]
    assert {file.name for file in files} == {
        f"score-by-{kind}.{ending}"
        for kind in ("rate", "alive", "mib")
        for ending in ("png", "svg")
    } | {"score.csv", "score.tex"}
    assert all(file.read_bytes() for file in files)
    with (tmp_path / "drawn" / "score.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["series"], row["q"], row["seeds"]) == ("fedx (magnitude)", "0.5", "1")
    assert 0 < float(row["parameters alive"]) < 314_954


def test_validation_is_a_column_where_rounds_are_judged() -> None:
    judged = record("judged", [report(1, 0.5, FULL, validation={"overall_accuracy": 0.45})])
    assert [row["validation"] for row in compare.rows([BASE, judged])] == [None, 0.45]
