"""Runs from another shell: which there are, what they say, and how one is ended."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bed import ROOT
from flows.runs import now
from flows.runs.run_folder import RunFolder
from flows.watching import watch

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


@pytest.fixture
def going(
    tmp_path: Path, tiny_data: Path, tiny_params: Path
) -> Iterator[tuple[RunFolder, subprocess.Popen[str]]]:
    """A run of another shell that has a round and 499 to go."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "flows.cli", "run", *QUIETLY, "--params", str(tiny_params),
            "--run", "long", "--rounds", "500",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FEDX_DATA_ROOT": str(tiny_data)},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    folder = RunFolder(tmp_path / "runs" / "long")
    try:
        deadline = time.monotonic() + 120
        while not watch.look(folder).reports:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield folder, process
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_stopped_from_another_shell_and_goes_on_after_that(
    going: tuple[RunFolder, subprocess.Popen[str]], fedx: Fedx, capsys: Said
) -> None:
    folder, process = going
    assert fedx("ls") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == [
        "long", "going", "fedx", "synthetic"
    ]  # fmt: skip
    assert fedx("stop", "long") == 0
    said = capsys.readouterr().out
    assert process.wait(30) == 130
    done = len(watch.look(folder).reports)
    assert said == f"run 'long' stopped after round {done} of 500; go on with `fedx resume long`\n"
    assert process.stderr is not None
    assert "stopping after the clients under way" in process.stderr.read()
    assert now.read(folder) is None
    assert fedx("stop", "long") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error E_RUN: run 'long' is not running: it stopped after round {done} of 500; go on with "
        "`fedx resume long`"
    )


def test_runs_are_listed_with_what_they_are_and_what_came_of_them(
    base: RunFolder, fedx: Fedx, capsys: Said
) -> None:
    assert fedx("ls", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)["runs"]
    last = watch.look(base).reports[-1]
    assert row["score"] == last.metrics["overall_accuracy"]
    assert row["mib"] == sum(r.wire_bytes for r in watch.look(base).reports) / 2**20
    assert (row["run"], row["state"]) == ("base", "finished")
    assert (row["method"], row["dataset"]) == ("fedx", "synthetic")
    assert (row["rounds"], row["rounds_planned"]) == (3, 3)
    assert row["started"] == base.notes()["started"]

    (base.results / "rounds.json").write_text("[{")
    assert fedx("ls") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["base", "damaged"]
    assert fedx("ls", "--run-root", "elsewhere") == 0
    assert capsys.readouterr().err == "no runs in elsewhere yet; start one with `fedx run`\n"


def test_a_log_has_each_line_with_its_time_and_how_the_run_ended(
    base: RunFolder, fedx: Fedx, capsys: Said
) -> None:
    assert fedx("log", "base") == 0
    lines = [line[21:] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "run base: 3 rounds"
    assert [line[:9] for line in lines if line.startswith("round ")] == [
        "round 1/3", "round 2/3", "round 3/3"
    ]  # fmt: skip
    assert lines[-1] == "finished"
    assert fedx("log", "base", "-n", "1", "--json") == 0
    last = json.loads(capsys.readouterr().out)
    assert last["said"] == "finished"
    assert time.strptime(last["time"], "%Y-%m-%d %H:%M:%S")
    base.log.unlink()
    assert fedx("log", "base") == 1
    assert "run 'base' has no log that can be read" in capsys.readouterr().err


def test_a_log_is_followed_to_the_end_of_its_run(
    going: tuple[RunFolder, subprocess.Popen[str]], fedx: Fedx, capsys: Said
) -> None:
    folder, _ = going
    follows = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "log", "long", "-f"],
        cwd=folder.path.parents[1],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follows.stdout is not None
    assert follows.stdout.readline().endswith("  run long: 500 rounds\n")
    assert fedx("stop", "long") == 0
    rest = follows.stdout.read()
    follows.communicate(timeout=60)
    assert rest.splitlines()[-1].endswith("  stopped: KeyboardInterrupt")
    assert rest == folder.log.read_text().partition("\n")[2]


def test_what_is_not_running_is_not_stopped_and_who_has_its_number_is_left_alone(
    base: RunFolder, fedx: Fedx, capsys: Said
) -> None:
    assert fedx("stop", "base") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == ("error E_RUN: run 'base' is not running: it finished after round 3 of 3")
    # Its process was killed years ago, and its number is that of this one now.
    note = {"round": 3, "doing": "train", "time": 1.0, "host": platform.node(), "pid": os.getpid()}
    now.path(base).write_text(json.dumps(note))
    assert fedx("stop", "base") == 1
    assert "is not running" in capsys.readouterr().err
    now.path(base).write_text(json.dumps(note | {"host": "elsewhere"}))
    assert fedx("stop", "base") == 1
    assert f"goes on on elsewhere, as process {os.getpid()}" in capsys.readouterr().err
    assert fedx("stop", "nobody") == 1
    assert "no run 'nobody' in runs; there are base" in capsys.readouterr().err
