"""Programs are found again and ended with all that they started, and nobody else is."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedx_core.base.errors import ConfigError, RunError
from infra.stack import processes, waiting
from infra.stack.services import Service

STUBBORN = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print("ready", child.pid, flush=True)
time.sleep(600)
"""
CALM = "import time; print('ready', flush=True); time.sleep(600)"


def service(code: str, name: str = "one") -> Service:
    return Service(name=name, command=(sys.executable, "-c", code), environment={"FEDX_X": "1"})


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end([p for group in processes.marked(tmp_path).values() for p in group], 0.1)


def ready(var: Path, name: str = "one") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if "ready" in (text := processes.log_of(name, var).read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError("it did not start")


def test_what_was_started_is_found_by_name_and_ends_at_the_first_signal(var: Path) -> None:
    processes.start(service(CALM), var)
    ready(var)
    found = processes.find("one", var)
    assert found is not None
    assert found.settings == processes.digest(service(CALM))
    assert found.settings != processes.digest(service(STUBBORN))
    assert processes.find("two", var) is None
    assert processes.find("one", var / "elsewhere") is None
    found.process.send_signal(signal.SIGINT)
    found.process.wait(timeout=60)
    assert processes.find("one", var) is None


def test_what_was_just_started_is_found_at_once(var: Path) -> None:
    """For a moment after it was started, a process shows no environment to tell it by."""
    for number in range(40):
        name = f"sleeper-{number}"
        sleeper = Service(name=name, command=("/bin/sleep", "600"), environment={"FEDX_X": "1"})
        processes.start(sleeper, var)
        assert processes.find(name, var) is not None


def test_a_service_is_found_while_its_shell_becomes_its_server(var: Path) -> None:
    """Each time a program replaces itself it shows no environment for some microseconds."""
    script = var / "again.sh"
    script.write_text('[ "$1" = 0 ] && exec sleep 600\nexec /bin/sh "$0" $(($1 - 1))\n')
    command = ("/bin/sh", str(script), "500")
    processes.start(Service(name="one", command=command, environment={"FEDX_X": "1"}), var)
    while (found := processes.find("one", var)) and found.process.name() != "sleep":
        pass
    assert found is not None


def test_a_shell_that_ignores_interrupts_does_not_make_services_ignore_them(var: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        processes.start(service(CALM), var)
    finally:
        signal.signal(signal.SIGINT, before)
    ready(var)
    found = processes.find("one", var)
    assert found is not None
    found.process.send_signal(signal.SIGINT)
    found.process.wait(timeout=60)


def test_stubborn_programs_are_killed_with_children_in_sessions_of_their_own(var: Path) -> None:
    processes.start(service(STUBBORN), var)
    child = int(ready(var).split()[-1])
    found = processes.marked(var)["one"]
    assert child in {process.pid for process in found}
    processes.end(found, 0.2)
    assert processes.marked(var) == {}
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_orphans_are_found_but_are_not_taken_for_their_service(var: Path) -> None:
    processes.start(service(STUBBORN), var)
    child = int(ready(var).split()[-1])
    main = processes.find("one", var)
    assert main is not None
    main.process.kill()
    main.process.wait(timeout=60)
    assert processes.find("one", var) is None
    assert [process.pid for process in processes.marked(var)["one"]] == [child]


def test_a_process_that_has_got_an_old_number_is_neither_found_nor_ended(var: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CALM], stdout=subprocess.DEVNULL) as stranger:
        (var / "stack").mkdir()
        (var / "stack" / "one.pid").write_text(f'{{"pid": {stranger.pid}, "settings": "x"}}')
        assert processes.find("one", var) is None
        assert processes.marked(var) == {}
        assert stranger.poll() is None
        stranger.kill()


def test_services_get_no_address_and_no_secret_of_the_shell(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "PREFECT_API_KEY", "https_proxy", "FEDX_STORE"):
        monkeypatch.setenv(name, "mine")
    processes.start(service(CALM), var)
    ready(var)
    found = processes.find("one", var)
    assert found is not None
    environment = found.process.environ()
    assert environment["FEDX_X"] == "1"
    assert "mine" not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]


def test_a_taken_port_is_named_with_the_variable_that_moves_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        wanted = Service(
            name="mlflow", command=(), environment={}, ports=(port,), port_name="FEDX_MLFLOW_PORT"
        )
        with pytest.raises(
            ConfigError,
            match=rf"port {port}.*mlflow.*{os.getpid()}.*FEDX_MLFLOW_PORT={port}.*\.env",
        ):
            waiting.check_ports([wanted])
    waiting.check_ports([wanted])


def test_a_service_that_ends_at_once_is_reported_with_its_last_words(var: Path) -> None:
    dying = service("raise SystemExit('no such disk')")
    processes.start(dying, var)
    with pytest.raises(RunError, match=r"(?s)one ended as it started.*no such disk"):
        waiting.until([dying], lambda _: False, var, lambda _: None)


def test_waiting_has_an_end(var: Path) -> None:
    processes.start(service(CALM), var)
    with pytest.raises(RunError, match=r"does not answer after 0 s"):
        waiting.until([service(CALM)], lambda _: False, var, lambda _: None, patience=0.3)
