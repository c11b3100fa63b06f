"""A run's folder: what lies where, what it is called, and what is known of the run.

runs/<name>/
    config.yaml         effective settings; `fedx run --params` takes it
    run.yaml            where its data, store and traces are
    store/              payloads, states and journal, unless --store says otherwise
    clients/            what clients keep for themselves
    results/            rounds.csv, rounds.json, summary.json, clients.json, pruning/,
                        system.jsonl
    run.log             what it showed, with times; each start and resumption adds to it
    audit.jsonl         a line for each attempt of a client that did not count
    model.safetensors   the final model
    best.safetensors    the best round's by validation, with federation.selection
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedx_core.base import config, strict_yaml, unfinished
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, FedXError, RunError, RunExistsError, StoreError
from fedx_core.base.locks import exclusive
from fedx_core.record.journal import Journal
from fedx_core.record.records import Run
from fedx_core.store import S3Store, open_store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunFolder:
    """One run's files.

    Args:
        path: of the folder.
        made: by whoever has this, so that it may be given back; see :meth:`give_back`.
    """

    path: Path
    made: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def config(self) -> Path:
        """Effective settings."""
        return self.path / "config.yaml"

    @property
    def about(self) -> Path:
        """Where things are and who else knows of the run."""
        return self.path / "run.yaml"

    @property
    def results(self) -> Path:
        """Numbers."""
        return self.path / "results"

    @property
    def counts(self) -> Path:
        """Who the clients are and what they hold."""
        return self.results / "clients.json"

    @property
    def pruning(self) -> Path:
        """What each pruning event saw and decided."""
        return self.results / "pruning"

    @property
    def system(self) -> Path:
        """How busy the machine was, see :mod:`flows.runs.monitor`."""
        return self.results / "system.jsonl"

    @property
    def log(self) -> Path:
        """What the run showed, with times."""
        return self.path / "run.log"

    @property
    def _lock(self) -> Path:
        return self.path / ".run.yaml.lock"

    @property
    def _work_lock(self) -> Path:
        return self.path / ".work.lock"

    @property
    def model(self) -> Path:
        """The final model."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The best round's model, where rounds are judged."""
        return self.path / "best.safetensors"

    def at_work(self, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Be the only process of this machine that does the run's rounds, waiting for others.

        Prefect may take a flow run for dead whose process is still at work; tried again, it goes on
        after that one instead of racing it. Between machines the journal decides who commits.

        Args:
            waiting: called once if another process is at work.
        """
        return exclusive(self._work_lock, waiting)

    def notes(self) -> dict[str, Any]:
        """Return what ``run.yaml`` says; nothing if it isn't there."""
        try:
            return dict(strict_yaml.read(self.about) or {})
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RunError(f"{self.about} can't be read ({error}); mend or delete it") from error

    def note(self, notes: Mapping[str, Any]) -> None:
        """Add to ``run.yaml``, as others may do at the same time."""
        with exclusive(self._lock):
            write_yaml(self.about, {**self.notes(), **notes})

    def take_back(self, store: str) -> None:
        """Delete what was written for a run that never began; only who :meth:`at_work` is may."""
        try:
            begun = Journal(open_store(store)).run() is not None
        except ConfigError:
            begun = False  # no such kind of store
        except FedXError:
            return  # what can't be read isn't ours to take back
        if not begun:
            written = (self.config, self.about, self.counts, self.system, self.log)
            for path in (*written, self._lock):
                path.unlink(missing_ok=True)
            for folder in (self.results, self.path / "store"):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            self._work_lock.unlink(missing_ok=True)  # last: from here on another may be at work

    def give_back(self) -> None:
        """Remove the folder if it was made here and holds nothing, so that its name is free."""
        if self.made:
            with suppress(OSError):  # somebody else has put something there meanwhile
                self.path.rmdir()


def claim(root: Path, name: str | None, settings: ExperimentConfig) -> RunFolder:
    """Make the folder of a new run.

    Args:
        root: folder of all runs.
        name: of the run; None makes one up from the settings, with -2, -3 where it is taken.
        settings: of the run.

    Raises:
        ConfigError: the name can't be a folder's.
        StoreError: the folder can't be made.
    """
    try:
        if name is not None:
            folder = root / checked(name)
            made = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)
            return RunFolder(folder, made=made)
        root.mkdir(parents=True, exist_ok=True)
        stem, count = default_name(settings), 1
        while True:
            folder = root / (stem if count == 1 else f"{stem}-{count}")
            try:
                folder.mkdir()
                return RunFolder(folder, made=True)
            except FileExistsError:
                count += 1
    except OSError as error:
        raise StoreError(
            f"can't make a run's folder in {root}: {error.strerror or error}; "
            "choose another one with --run-root"
        ) from error


def find(root: Path, name: str) -> RunFolder:
    """Return an existing run's folder.

    Raises:
        RunError: there is none; lists those that are there.
    """
    folder = root / checked(name)
    if not folder.is_dir():
        there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        known = f"there are {', '.join(there[:20])}" if there else "there are none yet"
        raise RunError(f"no run {name!r} in {root}; {known} (look elsewhere with --run-root)")
    return RunFolder(folder)


def refuse_if_taken(folder: RunFolder, store: str) -> None:
    """Stop before anything is overwritten.

    Args:
        folder: of a run that is to begin.
        store: that it would use.

    Raises:
        RunExistsError: the store holds a run, or the folder does, wherever that one's store is.
    """
    if isinstance(opened := open_store(store), S3Store):
        opened.check()
    own, noted = store_of(None, folder), folder.notes().get("store")
    for place in dict.fromkeys(filter(None, (store, noted, own))):
        try:
            begun = Journal(open_store(place)).run() is not None
        except FedXError as error:
            if place == store:
                raise
            raise RunExistsError(
                f"{folder.path} belongs to a run whose store {place} can't be read ({error}); "
                "make that store answer, or choose another name with --run"
            ) from error
        if begun:
            elsewhere = f", with its store in {place}" if place != store else ""
            raise RunExistsError(
                f"run {folder.name!r} exists already{elsewhere}; go on with "
                f"`fedx resume {folder.name}`, or choose another name with --run"
            )
    left = next((p for p in (folder.results / "rounds.json", folder.model) if p.exists()), None)
    if left is not None:
        raise RunExistsError(
            f"{left} is there, of an earlier run {folder.name!r} whose store is gone; choose "
            f"another name with --run, or remove {folder.path}"
        )


def begun(folder: RunFolder, base: str | None) -> tuple[str, Run]:
    """Find the store in which a run has begun.

    Args:
        folder: of the run, whose notes say where its store was.
        base: what runs share, where the store may have gone since; None for nothing.

    Returns:
        The store's URI, and the run.

    Raises:
        RunError: it has begun nowhere.
        StoreError: a store that may hold it can't be read.
    """
    places = (folder.notes().get("store"), base and store_of(base, folder), store_of(None, folder))
    looked, trouble = list(dict.fromkeys(str(place) for place in places if place)), None
    for place in looked:
        try:
            if (run := Journal(open_store(place)).run()) is not None:
                return place, run
        except StoreError as error:  # a store that is away may have been moved
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    raise RunError(
        f"run {folder.name!r} has not begun in {' or '.join(looked)}; start it with "
        f"`fedx run --run {folder.name}`"
    )


def checked(name: str) -> str:
    """Return a run's name if it can be a folder's.

    Raises:
        ConfigError: it can't.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"impossible run name {name!r}; use letters, digits, dots, dashes and underscores"
        )
    return name


def default_name(settings: ExperimentConfig) -> str:
    """Say what a run is in one word, such as ``fedx-lrp-q0.5-synthetic-s1``."""
    method = settings.method
    parts = [method.name]
    if isinstance(relevance := method.params.get("relevance"), Mapping):
        parts.append(str(relevance.get("name", "")))
    if "pruning_rate" in method.params:
        parts.append(f"q{method.params['pruning_rate']:g}")
    return "-".join([*filter(None, parts), settings.dataset, f"s{settings.seed}"])


def store_of(base: str | None, folder: RunFolder) -> str:
    """Return the store of a run: its own part of a shared one, or one in its folder.

    Args:
        base: URI of what the runs share; None for none.
        folder: of the run.
    """
    return part_of(base, folder.name) if base else str(folder.path.absolute() / "store")


def part_of(base: str, run: str) -> str:
    """Return a run's part of a shared store: in place of ``{run}``, or below it."""
    return base.replace("{run}", run) if "{run}" in base else f"{base.rstrip('/')}/{run}"


def save_config(folder: RunFolder, settings: ExperimentConfig) -> None:
    """Keep the effective settings beside what they led to."""
    write_yaml(folder.config, config.as_plain(settings))


def write_yaml(path: Path, value: Any) -> None:
    """Write plain values as YAML, in their order."""
    write(path, strict_yaml.dumps(value).encode())


def write(path: Path, data: bytes) -> None:
    """Replace a file at once: whoever reads it sees the old one or the new one.

    Raises:
        StoreError: the disk is full, or the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.beside(path) as under_way:
            under_way.write(data, durable=True)
            under_way.path.replace(path)
    except OSError as error:
        raise StoreError(
            f"can't write {path}: {error.strerror or error}; free the disk or choose another "
            "with --run-root, then `fedx resume`"
        ) from error
