"""Following a run that goes on elsewhere, by what it writes into its folder."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedx_core.base import strict_yaml
from fedx_core.base.errors import FedXError, RunError, StoppedError
from fedx_core.base.frozen_json import parse
from fedx_core.wire.messages import RoundReport
from flows.runs import now, run_folder, under_way
from flows.runs.now import Now
from flows.runs.run_folder import RunFolder

State = Literal["absent", "going", "finished", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as its folder shows it.

    Args:
        folder: of the run.
        reports: of its rounds so far.
        rounds: planned in all; 0 if unknown.
        now: what it does; None where it does nothing.
        summary: what came of it, if it has ended and that is of its last round.
    """

    folder: RunFolder
    reports: tuple[RoundReport, ...]
    rounds: int
    now: Now | None
    summary: dict[str, Any] | None

    @property
    def state(self) -> State:
        """Whether the run goes on, is finished, stopped before its end, or isn't there yet."""
        if self.now is not None and self.now.alive:
            return "going"
        if not self.reports:
            return "absent" if self.now is None else "stopped"
        last = self.reports[-1]
        ended = self.summary is not None and (bool(last.stopped) or last.round_index >= self.rounds)
        return "finished" if ended else "stopped"

    @property
    def seconds_a_round(self) -> float | None:
        """Mean of the last few rounds; None before the first."""
        return under_way.seconds_a_round(self.reports)

    @property
    def rounds_left(self) -> int:
        """Rounds that are still to be done, while the run goes on."""
        return max(self.rounds - len(self.reports), 0) if self.state == "going" else 0


def look(folder: RunFolder) -> Seen:
    """Look at a run.

    Raises:
        RunError: a file of it is damaged.
    """
    # In this order: a run that ends in between is seen as going on, and once more.
    doing = now.read(folder)
    reports = tuple(parse_reports(folder))
    summary = _json(folder.results / "summary.json")
    # That of an earlier end stays while a run goes further.
    current = summary is not None and reports and summary["rounds"] == reports[-1].round_index
    return Seen(
        folder=folder,
        reports=reports,
        rounds=_planned(folder) or (reports[-1].rounds if reports else 0),
        now=doing,
        summary=summary if current else None,
    )


def parse_reports(folder: RunFolder) -> list[RoundReport]:
    """Read the rounds so far; none where there are none yet.

    Raises:
        RunError: the file is damaged.
    """
    path = folder.results / "rounds.json"
    try:
        return [parse(RoundReport, row, gaps=True) for row in _json(path) or []]
    except FedXError as error:
        raise RunError(
            f"{path} can't be read ({error}); `fedx resume {folder.name}` writes it anew"
        ) from error


def follow(
    find: Callable[[], RunFolder | None],
    *,
    what: str,
    patience: float,
    interval: float = 1.0,
    waiting: Callable[[State], None] = lambda state: None,
) -> Iterator[Seen]:
    """Look at a run again and again until it is finished.

    Args:
        find: finds its folder; asked until there is one.
        what: the run, in errors.
        patience: seconds to wait for a run that does not go on.
        interval: seconds between two looks.
        waiting: is told once that there is something to wait for, and why.

    Yields:
        What there is to see, at each look at a run with a round or a step.

    Raises:
        RunError: no run appeared.
        StoppedError: it stopped before its last round and did not go on.
    """
    idle_since: float | None = None
    told: State | None = None
    while True:
        folder = find()
        seen = look(folder) if folder is not None else None
        state = seen.state if seen is not None else "absent"
        if seen is not None and state != "absent":
            yield seen
        if state == "finished":
            return
        if state == "going":
            idle_since = told = None
        else:
            idle_since = idle_since if idle_since is not None else time.monotonic()
            if time.monotonic() - idle_since >= patience:
                raise _given_up(seen, what, patience)
            if told != state:
                told = state
                waiting(state)
        time.sleep(interval)


def newest(root: Path) -> RunFolder | None:
    """Find the run that goes on and did something last, or else the last that did anything."""
    folders = [RunFolder(path) for path in root.iterdir()] if root.is_dir() else []
    touched = [folder for folder in folders if _touched(folder)]
    return max(touched, key=lambda f: (_alive(f), _touched(f), f.name), default=None)


def named(root: Path, name: str) -> RunFolder | None:
    """Find a run by name, or by the path of its folder where the name has a slash.

    Raises:
        ConfigError: the name can't be a run's.
    """
    path = Path(name) if "/" in name else root / run_folder.checked(name)
    return RunFolder(path) if path.is_dir() else None


def _given_up(seen: Seen | None, what: str, patience: float) -> FedXError:
    if seen is None or not seen.reports:
        return RunError(
            f"{what} has not begun after {patience:g} s; start it, look elsewhere with --run-root, "
            "or wait longer with --timeout"
        )
    name, last = seen.folder.name, seen.reports[-1].round_index
    return StoppedError(
        f"run {name!r} stopped after round {last} of {seen.rounds}; go on with `fedx resume {name}`"
    )


def _alive(folder: RunFolder) -> bool:
    note = now.read(folder)
    return note is not None and note.alive


def _touched(folder: RunFolder) -> float:
    files = (now.path(folder), folder.results / "rounds.json", folder.about)
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)


def _planned(folder: RunFolder) -> int:
    try:
        return int(strict_yaml.read(folder.config)["federation"]["rounds"])
    except (OSError, KeyError, TypeError, ValueError):
        return 0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read ({error}); `fedx resume` writes it anew") from error
