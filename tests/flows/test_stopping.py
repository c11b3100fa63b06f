"""Whatever a run has started ends with it, however it is asked to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bed import ROOT

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
RUN = f"""
import subprocess, sys, time
from flows.ending.stopping import stopping
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
with stopping(lambda: "told", lambda: print("stopped", flush=True)):
    try:
        print(child.pid, flush=True)
        time.sleep(600)
    finally:
        print("tidying", flush=True)
        if sys.argv[1:] == ["slow"]:
            time.sleep(600)
        child.kill()
"""


def started(*arguments: str) -> tuple["subprocess.Popen[str]", psutil.Process]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def is_gone(child: psutil.Process) -> bool:
    psutil.wait_procs([child], timeout=10)
    return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_once_it_tidies_and_says_how_to_go_on(number: signal.Signals) -> None:
    process, child = started()
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.split() == ["tidying", "stopped"]
    assert said.strip() == "told"
    assert is_gone(child)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_twice_it_ends_at_once_with_all_that_it_started(number: signal.Signals) -> None:
    process, child = started("slow")
    assert process.stdout is not None
    process.send_signal(number)
    assert process.stdout.readline().strip() == "tidying"
    process.send_signal(number)
    assert process.wait(60) == 130
    assert is_gone(child)
    process.communicate()


@pytest.mark.integration
@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM]],
    ids=["Ctrl-C twice", "SIGTERM"],
)
def test_no_prefect_server_is_left_behind(
    numbers: list[signal.Signals], tmp_path: Path, tiny_data: Path, tiny_params: Path
) -> None:
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "flows.cli", "run", "--run", "a", "--rounds", "500",
                "--params", str(tiny_params), "--track", "nothing",
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "FEDX_DATA_ROOT": str(tiny_data),
                "PREFECT_HOME": str(tmp_path / "prefect"),
            },
            stderr=said,
        )  # fmt: skip
    rounds = tmp_path / "runs" / "a" / "results" / "rounds.json"
    deadline = time.monotonic() + 240
    while not rounds.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    assert rounds.exists(), (tmp_path / "said").read_text()
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("uvicorn" in " ".join(child.cmdline()) for child in children)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.3)
    assert process.wait(120) == 130
    assert all(is_gone(child) for child in children)
    assert "fedx resume a" in (tmp_path / "said").read_text()
