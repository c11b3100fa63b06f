"""The command as a shell sees it: exit codes, what is said, and what is left behind."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bed import NARROW, ROOT, Bed, tiny
from fedx_core.base import config
from fedx_core.base.state import equal
from fedx_core.models import catalogue
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.store import open_store
from flows.runs.run_folder import RunFolder

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


def test_help_and_version_need_none_of_the_slow_libraries() -> None:
    slow = {"torch", "numpy", "prefect", "mlflow", "pydantic"}
    code = f"import sys, flows.cli; print(sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_teaches(fedx: Fedx, capsys: Said) -> None:
    assert fedx("--help") == 0
    assert "fedx run --method fedavg --run base" in capsys.readouterr().out
    assert fedx("--version") == 0
    assert capsys.readouterr().out.startswith("fedx 0.")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--method", "fedprx"], "error E_NAME: method: no method 'fedprx'"),
        (["--method", "fedavgg"], "did you mean 'fedavg'?"),
        (
            ["--set", "federation.cliens=3"],
            "error E_CONFIG: no setting 'federation.cliens'; did you mean ",
        ),
        (["--set", "training.epochs=many"], "error E_CONFIG: training.epochs: "),
        (["--pruning-rate", "1.5"], "error E_CONFIG: "),
        (["--dataset", "eurosatt"], "did you mean 'eurosat'?"),
        (["--dataset", "bigearthnet"], "error E_DATA: "),
        (["--run", "../elsewhere"], "error E_CONFIG: impossible run name"),
        (["--params", "nowhere.yaml"], "error E_CONFIG: no settings at nowhere.yaml"),
        (["--branch-from", "base"], "error E_CONFIG: impossible branch 'base'"),
        (["--branch-from", "base@2"], "error E_RUN: no run 'base'"),
        (["--store", "ftp://somewhere"], "error E_CONFIG: no store for"),
    ],
)
def test_a_mistake_is_one_clear_line_and_leaves_nothing(
    arguments: list[str], wanted: str, fedx: Fedx, capsys: Said
) -> None:
    assert fedx("run", *QUIETLY, *arguments) == 1
    said = capsys.readouterr()
    assert wanted in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--run-at", "nowhere"],
        ["run", "--run-at", "threads", "--no-engine"],
        ["run", "--set", "training.epochs"],
        ["run", "--set", "training.epochs=["],
        ["run", "--rounds", "some"],
        ["resume"],
        ["fly"],
    ],
)
def test_usage_errors_end_with_2(arguments: list[str], fedx: Fedx, capsys: Said) -> None:
    assert fedx(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--rounds", "some"], "'--rounds': must be a whole number, got 'some'."),
        (["resume", "a", "--rounds", "1.5"], "'--rounds': must be a whole number, got '1.5'."),
        (["run", "--pruning-rate", "half"], "'--pruning-rate': must be a number, got 'half'."),
        (["run", "--run-at", "nowhere"], "'--run-at': 'nowhere' is not one of 'here', "),
        (["reproduce", "fig9"], "'fig9' is not one of 'fig2', "),
    ],
)
def test_a_wrong_value_is_told_with_what_is_taken(
    arguments: list[str], message: str, fedx: Fedx, capsys: Said
) -> None:
    assert fedx(*arguments, "--json") == 2
    assert message in json.loads(capsys.readouterr().err)["error"]["message"]


def test_a_run_leaves_its_results(fedx: Fedx, capsys: Said, bed: Bed) -> None:
    assert fedx("run", *QUIETLY) == 0
    said = capsys.readouterr()
    folder = Path(said.out.strip())
    assert folder == Path("runs/fedx-magnitude-q0.5-synthetic-s1")
    assert [line.split()[:2] for line in said.err.splitlines()[1:]] == [
        ["round", "1/3"], ["round", "2/3"], ["round", "3/3"],
    ]  # fmt: skip

    expected = list(federate(tiny(), bed.setting(), InProcess(1)))
    with (folder / "results" / "rounds.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["round"] for row in table] == ["1", "2", "3"]
    assert [row["pruned"] for row in table] == ["0", "1", "0"]
    for row, report in zip(table, expected, strict=True):
        assert int(row["wire_downlink_bytes"]) == report.downlink_bytes
        assert int(row["wire_uplink_bytes"]) == report.uplink_bytes
        assert int(row["wire_mask_bytes"]) == report.mask_bytes
        assert int(row["evaluation_bytes"]) == report.evaluation_bytes
        assert int(row["paper_bytes"]) == report.paper_bytes
        assert float(row["test_overall_accuracy"]) == report.metrics["overall_accuracy"]
    assert table[0]["before_pruning_overall_accuracy"] == ""
    assert table[1]["before_pruning_overall_accuracy"] != ""
    assert float(table[-1]["wire_cumulative_mib"]) == pytest.approx(
        sum(report.wire_bytes for report in expected) / 2**20
    )
    rounds = json.loads((folder / "results" / "rounds.json").read_text())
    assert [r["metrics"] for r in rounds] == [dict(r.metrics) for r in expected]

    summary = json.loads((folder / "results" / "summary.json").read_text())
    assert summary["wire_bytes"]["total"] == sum(r.wire_bytes for r in expected)
    assert summary["paper_bytes"] == sum(r.paper_bytes for r in expected)
    assert summary["metrics"] == expected[-1].metrics
    assert [event["round"] for event in summary["pruning_events"]] == [2]

    assert config.load(folder / "config.yaml") == tiny()
    notes = yaml.safe_load((folder / "run.yaml").read_text())
    assert notes["store"] == str(folder.absolute() / "store")

    # What a run leaves is what another can start from.
    model = catalogue.build(NARROW, bands=3, classes=10, seed=0)
    catalogue.load_weights(model, folder / "model.safetensors")
    assert equal(model.state_dict(), final_model(open_store(bed.setting().place.store)))


def test_names_are_made_up_anew_but_a_chosen_one_is_refused(fedx: Fedx, capsys: Said) -> None:
    short = (*QUIETLY, "--rounds", "1", "--method", "fedavg")
    # The tiny federation's method has parameters that fedavg lacks; naming it drops them.
    assert fedx("run", *short) == 0
    assert fedx("run", *short) == 0
    assert capsys.readouterr().out.split() == [
        "runs/fedavg-synthetic-s1", "runs/fedavg-synthetic-s1-2",
    ]  # fmt: skip
    before = Path("runs/fedavg-synthetic-s1/config.yaml").read_bytes()
    assert fedx("run", *short, "--seed", "2", "--run", "fedavg-synthetic-s1") == 1
    assert "error E_RUN_EXISTS: " in capsys.readouterr().err
    assert Path("runs/fedavg-synthetic-s1/config.yaml").read_bytes() == before


def test_json_is_one_object_a_round_and_a_summary(fedx: Fedx, capsys: Said) -> None:
    assert fedx("run", *QUIETLY, "--json") == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["event"] for line in lines] == ["round", "round", "round", "summary"]
    assert [line["round"] for line in lines[:3]] == [1, 2, 3]
    assert lines[-1]["wire_bytes"]["uplink"] == sum(r["wire_uplink_bytes"] for r in lines[:3])
    assert not said.err


def test_a_shared_store_gives_each_run_its_own_part(fedx: Fedx, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for name in ("one", "two"):
        assert fedx("run", *QUIETLY, "--rounds", "1", "--run", name, "--store", str(shared)) == 0
        assert len(history(open_store(str(shared / name)))) == 1
        assert not Path("runs", name, "store").exists()
    # Where the store is was written down.
    assert fedx("resume", "two", *QUIETLY, "--rounds", "2") == 0
    assert len(history(open_store(str(shared / "two")))) == 2


def test_a_branch_shares_the_rounds_of_another_run(fedx: Fedx) -> None:
    common = (*QUIETLY, "--rounds", "3")
    assert fedx("run", *common, "--method", "fedavg", "--run", "base") == 0
    assert fedx("run", *common, "--run", "leaf", "--branch-from", "base@2") == 0
    assert fedx("run", *common, "--run", "whole") == 0
    leaf, whole = (Path("runs", name, "results", "rounds.json") for name in ("leaf", "whole"))
    untimed = [
        [{k: v for k, v in r.items() if k not in ("seconds", "client_metrics")} for r in rounds]
        for rounds in (json.loads(leaf.read_text()), json.loads(whole.read_text()))
    ]
    assert len(untimed[0]) == 3
    assert untimed[0] == untimed[1]


def test_gc_keeps_the_last_state(fedx: Fedx, capsys: Said) -> None:
    assert fedx("run", *QUIETLY, "--run", "a") == 0
    states = Path("runs/a/store/states")
    assert len(list(states.iterdir())) == 3
    left = [states / f".one.{'0' * 32}", Path(f"runs/a/.run.yaml.{'f' * 32}")]
    left.append(Path("runs/a/store/uplink/0001/client-00.0.report.taken"))
    for path in left:  # as of processes that were killed
        path.write_bytes(b"half")
    assert fedx("gc", "a", "--keep-states", "1") == 0
    assert len(list(states.iterdir())) == 1
    assert not any(path.exists() for path in left)
    assert fedx("resume", "a", *QUIETLY, "--rounds", "4") == 0
    assert fedx("gc", "b") == 1
    assert "no run 'b' in runs; there are a" in capsys.readouterr().err


def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, tiny_data: Path, tiny_params: Path, fedx: Fedx, bed: Bed, capsys: Said
) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "flows.cli", "run", "--run", "stopped", "--rounds", "200",
            "--params", str(tiny_params), *QUIETLY,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FEDX_DATA_ROOT": str(tiny_data)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.split()[:2] == ["round", "1/200"]:
            process.send_signal(signal.SIGINT)
            break
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not out
    assert "go on with: fedx resume stopped" in rest
    assert "Traceback" not in rest
    store = open_store(str(tmp_path / "runs" / "stopped" / "store"))
    done = len(history(store))
    assert done >= 1
    rounds = max(3, done + 1)

    assert fedx("resume", "stopped", *QUIETLY, "--rounds", str(rounds)) == 0
    assert f"on from round {done} of {rounds}" in capsys.readouterr().err
    list(federate(tiny(federation__rounds=rounds), bed.setting(), InProcess(1)))
    assert equal(final_model(store), final_model(open_store(bed.setting().place.store)))


def test_data_prepares_what_a_run_wants(
    fedx: Fedx, tiny_params: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDX_DATA_ROOT")
    assert fedx("run", *QUIETLY, "--rounds", "1") == 1
    assert fedx("doctor", "--params", str(tiny_params)) == 1
    said = capsys.readouterr().out
    assert "FAIL  data: " in said
    assert "fedx data synthetic" in said
    assert fedx("data", "synthetic", "--params", str(tiny_params)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"data/synthetic/{part}" for part in ("prepared", "shards", "reference")]
    assert any(line.startswith("synthetic: ") for line in lines[3:])
    assert fedx("run", *QUIETLY, "--rounds", "1") == 0
    assert fedx("doctor", "--params", str(tiny_params)) == 0
    assert fedx("data", "sinthetic", "--params", str(tiny_params)) == 1
    assert "error E_CONFIG: no data set 'sinthetic'" in capsys.readouterr().err


def test_the_flow_says_an_error_last_and_can_be_gone_on_with(
    fedx: Fedx, capsys: Said, tiny_data: Path, tmp_path: Path, prefect_server: None
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data / "synthetic", data / "synthetic")
    shard = data / "synthetic" / "shards" / "client-01"
    shard.rename(tmp_path / "lost")
    place = ("--data-root", str(data), "--track", "nothing")
    assert fedx("run", "--run", "a", *place) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error E_QUORUM: round 1: 2 of 3 clients reported")
    assert "fedx resume a" in last
    (tmp_path / "lost").rename(shard)
    assert fedx("resume", "a", *place) == 0
    said = capsys.readouterr()
    assert said.out.strip() == "runs/a"
    assert json.loads(Path("runs/a/results/summary.json").read_text())["rounds"] == 3
    rounds = [line for line in said.err.splitlines() if line.startswith("round ")]
    assert len(rounds) == 3
    assert rounds == [line for line in _log_in_prefect("runs/a") if line.startswith("round ")]


def _log_in_prefect(folder: str) -> list[str]:
    """Return what the page of a run's flow run shows as its log, once it has arrived there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    run = RunFolder(Path(folder)).notes()["prefect_run"]
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
    deadline = time.monotonic() + 60
    found: list[str] = []
    with get_client(sync_client=True) as client:
        # Prefect sends lines in bundles, every two seconds.
        while not any("round 3/3" in line for line in found) and time.monotonic() < deadline:
            time.sleep(0.2)
            found = [log.message for log in client.read_logs(wanted, sort="TIMESTAMP_ASC")]
    return found


def test_a_prefect_server_that_is_away_is_named(
    fedx: Fedx, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert fedx("run", "--track", "nothing") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error E_RUN: the Prefect server at http://127.0.0.1:9/api does not")
    assert not list(Path().glob("runs/*"))
