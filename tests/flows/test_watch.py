"""Runs as others see them: while they go on, once they are finished, and after they were killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bed import ROOT, Bed, tiny
from fedx_core.base.errors import RunError, StoppedError
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.wire.messages import ClientFailure
from flows.running import results
from flows.runs import live, now, run_folder, under_way
from flows.runs.now import Noted
from flows.runs.run_folder import RunFolder
from flows.watching import watch, watching_table

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


def started(tmp_path: Path, tiny_data: Path, tiny_params: Path, *arguments: str) -> Any:
    return subprocess.Popen(
        [
            sys.executable, "-m", "flows.cli", "run", *QUIETLY, "--params", str(tiny_params),
            *arguments,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FEDX_DATA_ROOT": str(tiny_data)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_a_run_that_has_not_begun_is_waited_for_and_followed_to_its_end(
    tmp_path: Path, tiny_data: Path, tiny_params: Path, fedx: Fedx, capsys: Said
) -> None:
    process = started(tmp_path, tiny_data, tiny_params, "--run", "later", "--json")
    assert fedx("watch", "later", "--json", "--timeout", "300") == 0
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert seen == [json.loads(line) for line in out.splitlines()]
    assert [one["event"] for one in seen] == ["round", "round", "round", "summary"]
    assert now.read(RunFolder(tmp_path / "runs" / "later")) is None

    # To a file or a pipe: the table alone.
    assert fedx("watch", "--timeout", "0") == 0
    said = capsys.readouterr()
    assert not said.err
    lines = said.out.splitlines()
    assert lines[0].split()[:3] == ["round", "accuracy", "unpruned"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[4].startswith("finished: accuracy ")
    assert lines[4].endswith("; runs/later")


def test_a_killed_run_ends_the_watching_with_a_code_of_its_own(
    tmp_path: Path, tiny_data: Path, tiny_params: Path, fedx: Fedx, capsys: Said
) -> None:
    process = started(tmp_path, tiny_data, tiny_params, "--run", "cut", "--rounds", "500")
    folder = RunFolder(tmp_path / "runs" / "cut")
    deadline = time.monotonic() + 120
    while not watch.look(folder).reports:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    seen = watch.look(folder)
    assert (seen.state, seen.rounds) == ("going", 500)
    assert seen.now is not None
    assert seen.now.pid == process.pid
    assert watch.newest(tmp_path / "runs") == folder

    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert now.read(folder) is not None
    assert watch.look(folder).state == "stopped"
    assert fedx("watch", "cut", "--timeout", "0", "--json") == 3
    said = capsys.readouterr()
    done = len(watch.look(folder).reports)
    assert len(said.out.splitlines()) == done
    error = json.loads(said.err)["error"]
    assert (error["code"], error["exit_code"]) == ("E_STOPPED", 3)
    assert f"stopped after round {done} of 500; go on with `fedx resume cut`" in error["message"]
    # On another machine nobody can tell, so it is taken to be at work.
    other = replace(seen.now, host="elsewhere")
    assert other.alive


def test_a_run_that_never_comes_is_given_up(fedx: Fedx, capsys: Said) -> None:
    assert fedx("watch", "nobody", "--timeout", "0") == 1
    said = capsys.readouterr().err
    assert "error E_RUN: run 'nobody' in runs has not begun after 0 s; start it" in said
    assert fedx("watch", "--timeout", "0") == 1
    assert "error E_RUN: a run in runs has not begun" in capsys.readouterr().err
    assert fedx("watch", "../x y", "--timeout", "0") == 1
    Path("runs/damaged/results").mkdir(parents=True)
    Path("runs/damaged/results/rounds.json").write_text("[{")
    assert fedx("watch", "damaged", "--timeout", "0") == 1
    assert "rounds.json can't be read" in capsys.readouterr().err


def test_the_state_follows_from_the_folder(bed: Bed) -> None:
    settings = tiny()
    reports = list(federate(settings, bed.setting(), InProcess(1)))
    folder = RunFolder(bed.runs / "run")
    assert watch.look(folder).state == "absent"
    run_folder.save_config(folder, settings)
    results.write_rounds(folder, reports[:2])
    assert watch.look(folder).state == "stopped"
    told: list[str] = []
    looks = watch.follow(
        lambda: folder, what="it", patience=0.05, interval=0.01, waiting=told.append
    )
    assert len(next(looks).reports) == 2
    with pytest.raises(StoppedError):
        list(looks)
    assert told == ["stopped"]

    with Noted(live.Lines(told.append), folder) as display:
        display.began("run", 3, 2)
        display.doing("train 0/3 clients")
        seen = watch.look(folder)
        assert (seen.state, seen.rounds) == ("going", 3)
        assert seen.now is not None
        assert (seen.now.round, seen.now.doing) == (3, "train 0/3 clients")
        assert seen.rounds_left == 1
        assert seen.seconds_a_round == pytest.approx(
            sum(sum(report.seconds.values()) for report in reports[:2]) / 2
        )
        shown = watching_table.step(seen, seen.now.time + 200)
        assert shown.startswith("train 0/3 clients, for 3 min 20 s; ")
        assert " s per round; about " in shown
    assert watch.look(folder).state == "stopped"
    results.write_rounds(folder, reports)
    results.write_summary(folder, results.summary(settings, reports, {"run": "run"}))
    assert watch.look(folder).state == "finished"

    # A run that is to go further is not finished by its earlier end.
    run_folder.save_config(folder, tiny(federation__rounds=5))
    assert watch.look(folder).state == "stopped"
    early = [*reports[:2], replace(reports[2], stopped="no better for 2 rounds")]
    results.write_rounds(folder, early)
    assert watch.look(folder).state == "finished"
    assert "finished (stopped early: no better for 2 rounds)" in watching_table.end(
        watch.look(folder)
    )


def test_a_step_is_taken_back_even_where_the_run_fails(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def fails() -> None:
        with Noted(live.Lines(lambda text: None), folder):
            assert watch.look(folder).state == "going"
            raise RunError("too few clients")

    with pytest.raises(RunError):
        fails()
    assert watch.look(folder).state == "absent"


def test_lines_fit_a_narrow_terminal_and_name_lost_clients(bed: Bed) -> None:
    reports = list(federate(tiny(), bed.setting(), InProcess(1)))
    lost = ClientFailure(client="client-02", reason="late", attempt=1)
    large = replace(
        reports[2], round_index=1000, failures=(lost,), seconds={"train": 99_999.9},
        traffic={n: replace(t, uplink=2**36) for n, t in reports[2].traffic.items()},
    )  # fmt: skip
    lines = list(watching_table.lines([*reports[:2], large], 1))
    assert [line.split()[0] for line in lines] == ["2", "1000", "lost"]
    assert max(map(len, lines)) < 80
    before = 100 * reports[1].metrics_before_pruning["overall_accuracy"]
    assert lines[0].split()[3:5] == [f"{before:.1f}", "%"]
    assert lines[2] == "      lost client-02: late"


def test_times_are_said_in_two_units() -> None:
    assert [under_way.duration(s) for s in (0.4, 59.6, 200, 7300)] == [
        "0 s", "1 min 0 s", "3 min 20 s", "2 h 1 min",
    ]  # fmt: skip
