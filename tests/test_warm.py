"""Programs that are forked from a warm process do as those that are started do."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import warm


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # Torch takes long, and changes nothing here.
    with tempfile.TemporaryDirectory() as folder, warm.serving(Path(folder) / "socket", ("yaml",)):
        yield str(Path(folder) / "socket")


def program(address: str, *arguments: str, folder: Path, **more: str) -> "subprocess.Popen[str]":
    """Start a program: forked, or of its own where there is no address."""
    before = [sys.executable, *(["-I", "-S", warm.__file__, address] if address else [])]
    return subprocess.Popen(
        [*before, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


MODULE = "import sys; print(__name__, sys.argv[1:], sys.path[0])"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-c", "import os; print(os.getcwd(), os.environ['MINE'], input())"], 0),
        (["-c", "import sys; print(__name__, sys.argv, sys.path[:2]); sys.exit(7)"], 7),
        (["-c", "import sys; print('said', file=sys.stderr); sys.exit('why')"], 1),
        (["-c", "import os; os._exit(9)"], 9),
        (["-c", "import atexit; atexit.register(print, 'last'); raise KeyError"], 1),
        (["-c", "import beside; print(beside.__file__)"], 0),
        (["-m", "beside", "--one", "-W", "two"], 0),
        (["-W", "error", "-c", "import warnings; warnings.warn('loud')"], 1),
    ],
)
def test_a_warm_program_says_and_returns_what_one_that_is_started_does(
    arguments: list[str], code: int, address: str, tmp_path: Path
) -> None:
    (tmp_path / "beside.py").write_text(MODULE)
    found = []
    for where in (address, ""):
        process = program(where, *arguments, folder=tmp_path, MINE="x")
        out, err = process.communicate("typed\n", timeout=60)
        last = err.splitlines()[-1:]  # above it a traceback has frames of warm.py
        found.append((process.returncode, out, last))
    assert found[0] == found[1]
    assert found[0][0] == code


def test_a_program_that_is_killed_says_so_as_a_shell_does(address: str, tmp_path: Path) -> None:
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    process = program(address, "-c", dies, folder=tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL


def test_a_program_ends_with_whoever_called_it(address: str, tmp_path: Path) -> None:
    waits = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    caller = program(address, "-c", waits, folder=tmp_path)
    assert caller.stdout is not None
    running = int(caller.stdout.readline())
    caller.kill()
    caller.communicate(timeout=60)  # returns as soon as nobody can write to its streams
    deadline = time.monotonic() + 60
    while psutil.pid_exists(running):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_programs_run_side_by_side(address: str, tmp_path: Path) -> None:
    """The first waits for what the second says."""
    os.mkfifo(tmp_path / "pipe")
    hears = program(address, "-c", "print(open('pipe').read())", folder=tmp_path)
    says = program(address, "-c", "open('pipe', 'w').write('heard')", folder=tmp_path)
    assert says.communicate(timeout=60)[0] == ""
    assert hears.communicate(timeout=60)[0] == "heard\n"
