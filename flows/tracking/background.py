"""Tell MLflow of a run while it goes on, from a thread of its own, and never keep the run waiting.

The run hands over what it knows and goes on; the thread brings MLflow's copy up to date, one visit
after the other. A visit that fails is forgotten: the next one asks MLflow what it has and sends the
rest. There is no queue that could grow, since the run's folder is the queue.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedx_core.base.config import ExperimentConfig
from fedx_core.wire.messages import RoundReport
from flows.runs.record import Record
from flows.runs.run_folder import RunFolder
from flows.settings.choices import Track
from flows.tracking import charts, places
from flows.tracking.copying import Copy, Status
from flows.tracking.visits import alone, first_line, introduce, now, visit

PATIENCE = {"FINISHED": 60.0, "FAILED": 5.0, "KILLED": 5.0}
"""Seconds that a run waits at its end for what is still being sent. A server that never answers
uses up less: each of its calls is given up after some 25 s."""

PAUSE = 60.0
"""Seconds after which the thread looks for samples, and for a server that is back, by itself."""


class Tracker(Protocol):
    """Is told of a run; returns nothing that changes it, and at once."""

    def began(self, folder: RunFolder, settings: ExperimentConfig, tags: Mapping[str, str]) -> None:
        """Begin, or go on with, the run of this folder."""

    def logged(self, reports: Sequence[RoundReport]) -> None:
        """Take all rounds so far; they are on disk already."""

    def ended(self, status: Status) -> None:
        """Take the end of the run; its files are on disk already."""


class NoTracker:
    """Keeps nothing."""

    def began(self, folder: RunFolder, settings: ExperimentConfig, tags: Mapping[str, str]) -> None:
        """Ignore it."""

    def logged(self, reports: Sequence[RoundReport]) -> None:
        """Ignore them."""

    def ended(self, status: Status) -> None:
        """Ignore it."""


@dataclass
class MlflowTracker:
    """Keeps a copy of the run in MLflow.

    Args:
        uri: of the tracking server or database.
        warn: takes one line for people, about what they may want to mend.
        say: takes one line for people.
        patience: seconds by status that :meth:`ended` waits at most.
    """

    uri: str
    warn: Callable[[str], None]
    say: Callable[[str], None] = lambda line: None
    patience: Mapping[str, float] = field(default_factory=lambda: PATIENCE)
    _task: tuple[Record, Status] | None = None
    _copy: Copy | None = None
    _trouble: str = ""
    _warned: bool = False
    _news: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def began(self, folder: RunFolder, settings: ExperimentConfig, tags: Mapping[str, str]) -> None:
        """Note what every copy of the run goes by, and start the thread."""
        self.uri = places.absolute(self.uri)
        page = places.prefect_page(tags.get("prefect_run", ""))
        about = {**tags, "prefect_page": page, "status": "RUNNING"}
        notes = introduce(folder, about, self.uri)
        record = Record(folder=folder, settings=settings, reports=(), notes=notes)
        self._task = (record, "RUNNING")
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._news.set()

    def logged(self, reports: Sequence[RoundReport]) -> None:
        """Leave the rounds to the thread."""
        if self._task is not None:
            record, status = self._task
            self._task = (replace(record, reports=tuple(reports)), status)
            self._news.set()
        if self._trouble and not self._warned:
            self._warned = True
            self.warn(
                f"MLflow at {places.public(self.uri)} does not answer ({self._trouble}); the run "
                "goes on, and its numbers are in results/rounds.json"
            )

    def ended(self, status: Status) -> None:
        """Leave the end to the thread, and wait for it a little."""
        if self._thread is None or self._task is None:
            return
        record, _ = self._task
        ended = {"status": status, "ended": now()}
        record.folder.note(ended)
        self._task = (replace(record, notes={**record.notes, **ended}), status)
        self._news.set()
        self._thread.join(self.patience[status])
        if self._thread.is_alive() or self._trouble:
            reason = self._trouble or f"it is still busy after {self.patience[status]:g} s"
            self.warn(
                f"MLflow at {places.public(self.uri)} does not have all of this run ({reason}); "
                f"`fedx sync {record.folder.path}` sends the rest"
            )
        elif self._copy is not None:
            self.say(charts.where(self.uri, self._copy.experiment_id))

    def _work(self) -> None:
        while True:
            self._news.wait(PAUSE)
            self._news.clear()
            assert self._task is not None
            record, status = self._task
            try:
                with alone(record.folder):
                    self._copy, _ = visit(self.uri, record, status, self._copy)
                self._trouble = ""
            except Exception as error:  # whatever tracking meets, the run matters more
                self._copy = None
                self._trouble = first_line(error)
            if status != "RUNNING":
                return


def tracker(
    track: Track, warn: Callable[[str], None], say: Callable[[str], None] = lambda line: None
) -> Tracker:
    """Open a tracker.

    Args:
        track: ``mlflow`` uses MLFLOW_TRACKING_URI, or ``mlflow.db`` in this folder.
        warn: takes one line for people, about what they may want to mend.
        say: takes one line for people.
    """
    return NoTracker() if track == "nothing" else MlflowTracker(places.default(), warn, say)
