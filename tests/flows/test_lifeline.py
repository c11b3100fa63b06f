"""Nothing stays behind a run that was killed without a word."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.ending import lifeline

CHILD = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys, time
from flows.ending import lifeline
with lifeline.held():
    child = subprocess.Popen(
        [sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    print(child.pid, child.stdout.readline().strip(), flush=True)
    if sys.argv[1] == "stay":
        time.sleep(600)
"""


def started(how: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that has a child and a grandchild, and the two's numbers."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, how],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert parent.stdout is not None
    with parent.stdout as said:
        return parent, [int(word) for word in said.readline().split()]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            pass
    return found


def gone(pids: list[int], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < ends:
        time.sleep(0.1)
    return not alive(pids)


def test_children_of_a_killed_process_end(tmp_path: Path) -> None:
    parent, children = started("stay")
    watchers = [each.pid for each in psutil.Process(parent.pid).children()]
    parent.kill()
    parent.wait()
    assert gone(children, 30)
    assert gone(watchers, 30)


def test_a_process_that_ends_by_itself_leaves_no_watcher(tmp_path: Path) -> None:
    parent, children = started("go")
    assert parent.wait(30) == 0
    try:
        assert alive(children) == children  # nobody was killed for it
        assert not [
            each
            for each in psutil.process_iter(["cmdline"])
            if str(parent.pid) in (each.info["cmdline"] or [])
            and "flows.ending.lifeline" in each.cmdline()
        ]
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def test_others_are_left_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        lifeline.end("a token that nobody carries")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_variable_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lifeline.VARIABLE, "of whoever started this")
    with lifeline.held():
        assert os.environ[lifeline.VARIABLE] != "of whoever started this"
    assert os.environ[lifeline.VARIABLE] == "of whoever started this"
