"""Start programs, find them again, end them with all that they have started.

Every program gets two marks in its environment, which its children inherit: whose stack it is of,
and which service. Who carries the marks is ours; nobody else is ever signalled. A process is told
from a later one of the same number by the time at which it began.
"""

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedx_core.base import strict_json
from fedx_core.base.errors import RunError
from infra.stack.services import Service
from infra.stack.settings import ROOT

STACK, SERVICE = "STACK_OF", "STACK_SERVICE"
DROPPED = ("PREFECT_", "MLFLOW_", "AWS_", "FEDX_", "WEED_")
"""What a program has in its environment under these beginnings comes from ``.env`` alone."""


@dataclass(frozen=True)
class Running:
    """A service that runs.

    Args:
        process: its first process.
        settings: short digest of command and environment with which it was started.
    """

    process: psutil.Process
    settings: str


def start(service: Service, var: Path) -> None:
    """Start a service as the leader of a session of its own, with its log in ``var/log``."""
    log = log_of(service.name, var)
    for folder in (log.parent, var / "stack"):
        folder.mkdir(parents=True, exist_ok=True)
    inherited = {
        name: value
        for name, value in os.environ.items()
        # All talk to this machine alone, so a proxy could only be in the way.
        if not name.startswith(DROPPED) and not name.lower().endswith("_proxy")
    }
    # Flow runs start in folders of their own and import the checkout from there. MLflow looks on
    # this path for its app `fedx`.
    inherited["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), str(ROOT / "infra/mlflow_app"), os.environ.get("PYTHONPATH")))
    )
    pid = os.posix_spawn(
        service.command[0],
        service.command,
        inherited | dict(service.environment) | {STACK: str(var), SERVICE: service.name},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        # A shell without a terminal ignores Ctrl-C for what it starts with `&`, and children of
        # such a process could not be interrupted.
        setsigdef=[signal.SIGINT, signal.SIGTERM],
    )
    _note(service.name, var).write_text(
        strict_json.dumps({"pid": pid, "settings": digest(service)})
    )


def find(name: str, var: Path) -> Running | None:
    """Find a service that was started and still runs."""
    try:
        note = json.loads(_note(name, var).read_text())
        process = psutil.Process(note["pid"])
        mine = _marks(_settled(process)) == (str(var), name)
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return Running(process, note["settings"]) if mine and alive(process) else None


def marked(var: Path) -> dict[str, list[psutil.Process]]:
    """Find all processes of the stack in ``var`` by service, children and orphans among them."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            stack, name = _marks(process.environ())
            if stack == str(var) and name and alive(process):
                found.setdefault(name, []).append(process)
    return found


def end(processes: Iterable[psutil.Process], calm: float) -> None:
    """Interrupt processes, then ask them to end, then kill them.

    Args:
        processes: as :func:`marked` finds them.
        calm: seconds to wait after the first signal and after the second.

    Raises:
        RunError: something outlived even that.
    """
    left = [process for process in processes if alive(process)]
    for number, patience in ((signal.SIGINT, calm), (signal.SIGTERM, calm), (signal.SIGKILL, 10.0)):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)  # psutil checks when it began
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = [process for process in left if alive(process)]
        if not left:
            return
    raise RunError(f"processes {[process.pid for process in left]} can't be killed")


def alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; one that has ended and only waits to be noted does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def digest(service: Service) -> str:
    """Tell one way of starting a service from another."""
    how: tuple[tuple[str, ...], Mapping[str, str]] = (service.command, service.environment)
    return hashlib.sha256(strict_json.dumps(how, sort_keys=True).encode()).hexdigest()[:12]


def memory(processes: Iterable[psutil.Process]) -> int:
    """Add up what processes hold in memory, in bytes; what they share counts once for each."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def log_of(name: str, var: Path) -> Path:
    """Return where a service's log is."""
    return var / "log" / f"{name}.log"


def _note(name: str, var: Path) -> Path:
    return var / "stack" / f"{name}.pid"


def _settled(process: psutil.Process) -> dict[str, str]:
    """Read the environment of a process, and again while it replaces itself and shows none.

    A service is a shell first, which becomes the server. While the kernel puts the one in place of
    the other, some milliseconds on a busy machine, there is no environment to read marks from.
    """
    deadline = time.monotonic() + 5
    environment: dict[str, str] = process.environ()
    while not environment and alive(process) and time.monotonic() < deadline:
        time.sleep(0.001)
        environment = process.environ()
    return environment


def _marks(environment: Mapping[str, str]) -> tuple[str, str]:
    return environment.get(STACK, ""), environment.get(SERVICE, "")
