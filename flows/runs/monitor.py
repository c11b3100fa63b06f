"""How busy the machine is while a run goes on: ``results/system.jsonl``, a line every ten seconds.

    {"time": 1760000000.12, "cpu_utilization_percentage": 93.5, ...}

Sampled by a thread of ours into the run's folder. MLflow's own monitor sends straight to the
tracking server and ends at the first answer that doesn't come; names are its names, so that its
pages show ours the same way. One line is one write, so a killed run leaves whole lines.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedx_core.base import strict_json
from flows.runs.run_folder import RunFolder

PERIOD = 10.0
"""Seconds from one sample to the next."""

_MB = 10**6
_NVIDIA = (
    "--query-gpu=index,utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
)


@dataclass(frozen=True)
class Sample:
    """The machine at one time.

    Args:
        index: number of the line, from 0; over all sessions of a resumed run.
        time: seconds since 1970.
        values: by name.
    """

    index: int
    time: float
    values: dict[str, float]


@contextmanager
def sampling(
    folder: RunFolder, warn: Callable[[str], None], period: float = PERIOD
) -> Iterator[None]:
    """Sample until the block is left: at its beginning, every ``period`` seconds and at its end.

    Args:
        folder: of the run.
        warn: takes a line where sampling had to end early; the run goes on.
        period: seconds.
    """
    import psutil

    leave = threading.Event()
    trouble: list[str] = []

    def work() -> None:
        psutil.cpu_percent()  # shares are since the last call, and this is the first
        pause = min(0.1, period)
        try:
            while not leave.wait(pause):
                _append(folder.system)
                pause = period
            _append(folder.system)
        except (OSError, psutil.Error) as error:
            trouble.append(str(error))

    thread = threading.Thread(target=work, name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()
        if trouble:
            warn(f"no more system metrics ({trouble[0]}); the run is not touched by that")


def samples(path: Path, first: int = 0) -> list[Sample]:
    """Read samples back, from line ``first``; a line that a crash cut short is left out."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for index, line in enumerate(lines[first:], start=first):
        with suppress(ValueError):
            values = json.loads(line)
            found.append(Sample(index, values.pop("time"), values))
    return found


def measure() -> dict[str, float]:
    """Look at processor, memory and GPUs now.

    Returns:
        Shares in percent of the whole machine; memory in MB of 10^6 bytes, that of GPUs in MiB as
        the driver counts it. ``process_memory_megabytes`` is this process with its children.
    """
    import psutil

    memory = psutil.virtual_memory()
    here = psutil.Process()
    resident = 0
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.Error):  # gone since it was listed
            resident += process.memory_info().rss
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": round(memory.used / _MB, 1),
        "system_memory_usage_percentage": memory.percent,
        "process_memory_megabytes": round(resident / _MB, 1),
        **_gpus(),
    }


def read_nvidia(text: str) -> dict[str, float]:
    """Read what ``nvidia-smi`` prints; what it can't tell is left out."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != 4:
            continue
        index, busy, used, total = words
        with suppress(ValueError):
            found[f"gpu_{index}_utilization_percentage"] = float(busy)
        with suppress(ValueError, ZeroDivisionError):
            share = round(100 * float(used) / float(total), 1)
            found[f"gpu_{index}_memory_usage_megabytes"] = float(used)
            found[f"gpu_{index}_memory_usage_percentage"] = share
    return found


def _gpus() -> dict[str, float]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        said = subprocess.run(
            [program, *_NVIDIA], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return read_nvidia(said.stdout)


def _append(path: Path) -> None:
    line = strict_json.dumps({"time": round(time.time(), 3), **measure()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        # After a line that a crash cut short, this one starts anew.
        cut = path.stat().st_size > 0 and not _ends_whole(path)
        file.write((b"\n" if cut else b"") + line.encode() + b"\n")


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
