"""A run's log, ``runs/<name>/run.log``: what it showed and what the core had to say, with times."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from flows.base.logs import CORE
from flows.runs.live import Both, Display, Lines
from flows.runs.run_folder import RunFolder


@dataclass(frozen=True)
class RunLog:
    """The file, which grows by lines; where it can't be written, the run goes on without.

    Args:
        folder: of the run.
    """

    folder: RunFolder

    def write(self, text: str) -> None:
        """Add a line, or several of one moment."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError), self.folder.log.open("a", encoding="utf-8") as file:
            file.write("".join(f"{now}  {line}\n" for line in text.splitlines()))


class _Handler(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(f"{record.levelname.lower()}: {record.getMessage()}")


@dataclass
class Kept(Both):
    """A display whose lines are kept in the run's log, with the core's among them.

    Args:
        log: of the run.
    """

    log: RunLog
    _handler: _Handler | None = field(default=None, init=False)
    _level: int = field(default=logging.NOTSET, init=False)

    def __enter__(self) -> Self:
        """Begin to listen to the core."""
        core = logging.getLogger(CORE)
        self._handler, self._level = _Handler(self.log), core.level
        core.addHandler(self._handler)
        core.setLevel(min(core.getEffectiveLevel(), logging.INFO))
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how the run ended."""
        core = logging.getLogger(CORE)
        if self._handler is not None:
            core.removeHandler(self._handler)
        core.setLevel(self._level)
        if error is None:
            self.log.write("finished")
        else:
            self.log.write(f"stopped: {str(error) or type(error).__name__}")
        super().__exit__(kind, error, trace)


def kept(shown: Display, folder: RunFolder) -> Kept:
    """Keep what a display shows in the run's log, too."""
    log = RunLog(folder)
    return Kept(shown, Lines(log.write), log)
