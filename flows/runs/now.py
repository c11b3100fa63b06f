"""What a run does now, in its folder, for whoever watches from elsewhere: ``results/now.json``.

    {"round": 5, "doing": "train 3/8 clients", "time": 1760000000.1, "host": "hub", "pid": 4711}

The file is there while the run goes on. Where it is left behind, its process was killed, which can
be told on the same machine; from others it only grows old.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from fedx_core.base import strict_json
from fedx_core.wire.messages import RoundReport
from flows.runs.live import Beside
from flows.runs.run_folder import RunFolder

_CLOCKS_DIFFER = 60.0
"""Seconds by which a process's age, which is counted from the boot, may be off."""


@dataclass(frozen=True)
class Now:
    """What a run does.

    Args:
        round: that is under way; 0 before that is known.
        doing: the step.
        time: when it began, in seconds since 1970.
        host: name of the machine.
        pid: of the process there.
    """

    round: int
    doing: str
    time: float
    host: str
    pid: int

    @property
    def alive(self) -> bool:
        """Whether the process is there, as far as this machine can tell."""
        if self.host != platform.node():
            return True
        try:
            process = psutil.Process(self.pid)
            # A process that is younger than the note has got the number of one that is gone.
            younger = process.create_time() > self.time + _CLOCKS_DIFFER
            return not younger and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # somebody else's, but there


def path(folder: RunFolder) -> Path:
    """Name the file."""
    return folder.results / "now.json"


def read(folder: RunFolder) -> Now | None:
    """Read what a run does; None where it does nothing."""
    try:
        return Now(**json.loads(path(folder).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


@dataclass
class Noted(Beside):
    """A display that notes each step in the run's folder, too.

    Args:
        folder: of the run.
    """

    folder: RunFolder
    _round: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        """Begin."""
        self._note("starting")
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the note away: nothing is being done."""
        with suppress(OSError):
            path(self.folder).unlink(missing_ok=True)
        super().__exit__(kind, error, trace)

    def began(self, run: str, rounds: int, done: int) -> None:
        """Remember how far the run is."""
        self._round = min(done + 1, rounds)
        super().began(run, rounds, done)

    def doing(self, what: str) -> None:
        """Note the step."""
        self._note(what)
        super().doing(what)

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Remember how far the run is."""
        self._round = min(reports[-1].round_index + 1, reports[-1].rounds)
        super().finished_round(reports)

    def _note(self, what: str) -> None:
        note = {
            "round": self._round,
            "doing": what,
            "time": round(time.time(), 3),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        target = path(self.folder)
        beside = target.with_name(f".{target.name}")
        # Not worth a run: a full disk stops it at the next commit, in words of its own.
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(strict_json.dumps(note))
            beside.replace(target)
