"""A sweep's runs, several at once, each a process of its own that may fail alone.

What is finished is left as it is, what has begun goes on, so a sweep that was stopped or killed is
started again in the same way.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import RunError, RunExistsError
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds import start
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from flows.data import variants
from flows.runs import run_folder
from flows.runs.record import read
from flows.runs.run_folder import RunFolder
from flows.settings.choices import Track
from flows.sweeps.grid import Grid
from flows.sweeps.sharing import Step, steps, without_rounds

Standing = Literal["finished", "begun", "missing"]
Ending = Literal["finished", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of the sweep, where it belongs, and how far it is.

    Args:
        step: what to run.
        data_root: folder of data sets with its partition.
        standing: before this sweep.
    """

    step: Step
    data_root: Path
    standing: Standing


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run.

    Args:
        run: its name.
        ending: skipped is what was finished before.
        said: why it failed; empty otherwise.
    """

    run: str
    ending: Ending
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a sweep's runs live.

    Args:
        run_root: folder of all runs.
        data_root: folder of all data sets.
        store: URI of what runs share; None keeps each run's in its folder.
    """

    run_root: Path
    data_root: Path
    store: str | None = None


Launch = Callable[[Job], str]
"""Carry one run to its end; returns why it failed, or nothing."""


def jobs(grid: Grid, places: Places) -> list[Job]:
    """Find out how far each run is; everything that can be refused is refused here.

    Raises:
        RunExistsError: a run of that name has other settings.
        DataError: the data are missing, or were made with other settings.
    """
    found = []
    for step in steps(grid):
        standing = standing_of(step, places)
        root = variants.data_root(step.settings, places.data_root, grid.seed)
        data = root / step.settings.dataset
        place = Place(store="", shards=str(data / "shards"), memory="")
        start.load(Setting(run=step.run, data=data, place=place), step.settings)
        found.append(Job(step=step, data_root=root, standing=standing))
    return found


def standing_of(step: Step, places: Places) -> Standing:
    """Say how far a run is.

    Raises:
        RunExistsError: it has other settings.
    """
    folder = RunFolder(places.run_root / step.run)
    store = str(folder.notes().get("store") or run_folder.store_of(places.store, folder))
    begun = Journal(open_store(store)).run()
    if begun is None:
        return "missing"
    there, wanted = without_rounds(config.parse(begun.config)), without_rounds(step.settings)
    differing = [name for name in wanted if wanted[name] != there.get(name)]
    if differing:
        raise RunExistsError(
            f"run {step.run!r} exists with another {', '.join(differing)}; give the sweep another "
            f"name (name: in the grid), or remove {folder.path}"
        )
    return "finished" if _finished(folder, step.settings) else "begun"


def carry_out(
    found: Sequence[Job], launch: Launch, at_once: int, tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run what is not finished; a failure stops nothing but what branches from it.

    Args:
        found: in the order of :func:`flows.sweeps.sharing.steps`: origins first, so that no slot
            waits for a run that has none.
        launch: carries one out.
        at_once: runs at the same time.
        tell: called at each run's end, from any thread.

    Returns:
        What became of each, in their order.
    """
    ends: dict[str, Future[Outcome]] = {}

    def one(job: Job, origin: "Future[Outcome] | None") -> Outcome:
        outcome = _one(job, origin.result() if origin else None, launch)
        tell(outcome)
        return outcome

    pool = ThreadPoolExecutor(at_once)
    try:
        for job in found:
            ends[job.step.run] = pool.submit(one, job, ends.get(job.step.origin_run))
        return [end.result() for end in ends.values()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(kw_only=True)
class Processes:
    """Launches each run as ``fedx run`` or ``fedx resume`` in a process of its own.

    Args:
        sweep: its name.
        places: where runs live.
        workers: clients at once in each.
        track: where numbers are copied to; shared first rounds are copied with the cells.
    """

    sweep: str
    places: Places
    workers: int = 1
    track: Track = "mlflow"
    _living: set["subprocess.Popen[str]"] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def __call__(self, job: Job) -> str:
        """Carry one run to its end."""
        with tempfile.TemporaryDirectory() as folder:
            params = Path(folder) / "params.yaml"
            run_folder.write_yaml(params, config.as_plain(job.step.settings))
            with self._lock:
                if self._stopped:
                    return "stopped"
                # A group of its own: Ctrl-C reaches it once, by `stop`, and not twice.
                process = subprocess.Popen(
                    [sys.executable, "-m", "flows.cli", *self._arguments(job, params)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=_environment(),
                    start_new_session=True,
                )
                self._living.add(process)
            said = process.communicate()[1].strip().splitlines()
            with self._lock:
                self._living.discard(process)
        if process.returncode == 0:
            for line in said:
                if "warning: " in line:  # such as what MLflow lacks, and how to send it
                    print(f"{job.step.run}: {line}", file=sys.stderr, flush=True)
            return ""
        return said[-1] if said else f"ended with code {process.returncode}"

    def stop(self) -> None:
        """Ask the living to stop after their clients, and wait for them."""
        with self._lock:
            self._stopped = True
            living = list(self._living)
        for process in living:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        for process in living:
            process.wait()

    def _arguments(self, job: Job, params: Path) -> list[str]:
        step, places = job.step, self.places
        shared = [
            "--no-engine", "--run-root", str(places.run_root), "--workers", str(self.workers),
            "--track", self.track if step.is_cell else "nothing",
            *(("--store", places.store) if places.store else ()),
        ]  # fmt: skip
        rounds = step.settings.federation.rounds
        if job.standing == "begun":
            return ["resume", step.run, "--rounds", str(rounds), *shared]
        return [
            "run", "--run", step.run, "--params", str(params), "--data-root", str(job.data_root),
            *(("--sweep", self.sweep) if step.is_cell else ()),
            *(("--branch-from", step.origin) if step.origin else ()),
            *shared,
        ]  # fmt: skip


def _one(job: Job, origin: Outcome | None, launch: Launch) -> Outcome:
    run = job.step.run
    if job.standing == "finished":
        return Outcome(run=run, ending="skipped")
    if origin is not None and origin.ending == "failed":
        return Outcome(run=run, ending="failed", said=f"{origin.run} failed, which it goes on from")
    said = launch(job)
    return Outcome(run=run, ending="failed" if said else "finished", said=said)


def _finished(folder: RunFolder, settings: ExperimentConfig) -> bool:
    """Whether a run has its last round, and everything that is written after it."""
    if not (folder.results / "summary.json").exists() or not folder.model.exists():
        return False
    try:
        last = read(folder).reports[-1]
    except RunError:
        return False
    wanted = settings.federation.rounds
    if last.round_index > wanted:
        raise RunExistsError(
            f"run {folder.name!r} has {last.round_index} rounds already, the grid asks for "
            f"{wanted}; raise federation.rounds, or give the sweep another name"
        )
    return bool(last.stopped) or last.round_index == wanted


def _environment() -> Mapping[str, str]:
    # One thread per process, or runs at once would fight for cores.
    return {"OMP_NUM_THREADS": "1", **os.environ}
