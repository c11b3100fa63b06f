"""What goes into a backup: runs that nobody is at work on, folders with keys, MLflow's file.

A store is read by what the run's journal names, so it may be of files or S3, and every object is
checked on its way. A folder must look the same after it was copied as before. Names with a dot in
front are locks and files under way; they stay out.
"""

import io
import os
import sqlite3
import stat
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from fedx_core.base.errors import ConfigError, PayloadError, RunError, StoreError
from fedx_core.rounds import inventory
from fedx_core.sites import key_files
from fedx_core.store import open_store
from flows.backup import archive
from flows.backup.archive import MLFLOW, Writer
from flows.runs import now, run_folder
from flows.runs.run_folder import RunFolder

SECRETS = (key_files.FILE, key_files.NEXT, key_files.BEFORE)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be kept.

    Args:
        runs: names; none for all that have begun.
        run_root: folder of all runs.
        store: what runs share; None if each has its own.
        coordinator: a coordinator's folder, if it is there.
        site: a site's folder, if it is there.
        mlflow: MLflow's SQLite file, if it is there.
        with_keys: secret keys as well.
    """

    runs: Sequence[str]
    run_root: Path
    store: str | None
    coordinator: Path
    site: Path
    mlflow: Path
    with_keys: bool = True


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a backup holds.

    Args:
        runs: names.
        others: folders and files besides them, where they are.
        keys: files with secret keys.
        left_out: what was looked for and is not in it, with why.
        files: how many.
        size: of the archive, in bytes.
    """

    runs: tuple[str, ...]
    others: tuple[Path, ...]
    keys: tuple[Path, ...]
    left_out: tuple[str, ...]
    files: int
    size: int


def back_up(path: Path, wanted: Wanted) -> Kept:
    """Write one file that :func:`flows.backup.restore.restore` makes everything of again.

    Args:
        path: of the file; it must not be there.
        wanted: see :class:`Wanted`.

    Raises:
        RunError: a run goes on, or was never begun.
        ConfigError: nothing is there to back up.
        StoreError: something can't be read, changed meanwhile, or is a link.
        PayloadError: something is damaged.
    """
    runs, left_out = _runs(wanted)
    homes = [
        (part, folder)
        for part, folder in (("coordinator", wanted.coordinator), ("site", wanted.site))
        if folder.is_dir()
    ]
    missing = (wanted.coordinator, wanted.site, wanted.mlflow)
    left_out += [f"{place}: not there" for place in missing if not place.exists()]
    others = [*(folder for _, folder in homes), *filter(Path.is_file, [wanted.mlflow])]
    if not runs and not others:
        raise ConfigError(
            f"nothing to back up: no run in {wanted.run_root}, and none of "
            f"{', '.join(map(str, missing))} is there; name what is meant with --run-root, "
            "--coordinator-home, --site-home or --mlflow"
        )
    with ExitStack() as held:
        for run in runs:
            _at_rest(run, held)
        with archive.written(path) as writer:
            for run in runs:
                _add_run(writer, run, wanted.store)
            for part, folder in homes:
                _add_folder(writer, part, folder, () if wanted.with_keys else SECRETS)
            if wanted.mlflow.is_file():
                _add_mlflow(writer, wanted.mlflow, path.absolute().parent)
    inside = [folder / name for part, folder in homes for name in SECRETS]
    there = [secret for secret in inside if secret.exists()]
    return Kept(
        runs=tuple(run.name for run in runs),
        others=tuple(others),
        keys=tuple(there if wanted.with_keys else ()),
        left_out=(
            *left_out, *(f"{secret}: secret" for secret in there if not wanted.with_keys)
        ),
        files=len(writer.files),
        size=path.stat().st_size,
    )  # fmt: skip


def _runs(wanted: Wanted) -> tuple[list[RunFolder], list[str]]:
    if wanted.runs:
        named = [run_folder.find(wanted.run_root, name) for name in dict.fromkeys(wanted.runs)]
        for folder in named:
            run_folder.begun(folder, wanted.store)
        return named, []
    root = wanted.run_root
    there = sorted(root.iterdir()) if root.is_dir() else []
    found, left_out = [], []
    for folder in (RunFolder(path) for path in there):
        if not (folder.about.exists() or folder.config.exists()):
            continue
        try:
            run_folder.begun(folder, wanted.store)
        except RunError:
            left_out.append(f"{folder.path}: no run has begun there")
        else:
            found.append(folder)
    return found, left_out


def _at_rest(folder: RunFolder, held: ExitStack) -> None:
    """Keep everybody from working on a run.

    Raises:
        RunError: somebody is.
    """
    name = folder.name

    def busy() -> NoReturn:
        raise RunError(
            f"run {name!r} goes on; stop it with `fedx stop {name}`, back it up, then go on with "
            f"`fedx resume {name}`"
        )

    held.enter_context(folder.at_work(busy))
    doing = now.read(folder)
    if doing is not None and doing.alive:
        raise RunError(
            f"run {name!r} goes on on {doing.host}, as process {doing.pid}; stop it with `fedx "
            f"stop {name}`, or delete {now.path(folder)} if that process is gone"
        )


def _add_run(writer: Writer, folder: RunFolder, base: str | None) -> None:
    name = f"runs/{folder.name}"
    uri, _ = run_folder.begun(folder, base)
    writer.stores[folder.name] = "" if uri == run_folder.store_of(None, folder) else uri
    _add_folder(writer, name, folder.path, ("store", "results/now.json"))
    for key, data in inventory.contents(open_store(uri)):
        place = f"{name}/store/{key}"
        writer.add_folder(place.rpartition("/")[0], 0o755)
        writer.add(place, io.BytesIO(data), 0o644)


def _add_folder(writer: Writer, part: str, folder: Path, without: Collection[str]) -> None:
    """Add a folder with all in it but some names.

    Raises:
        StoreError: it changed meanwhile, or holds what is neither file nor folder.
    """
    before = _found(folder, without)
    for name, (mode, *_) in before.items():
        place = f"{part}/{name}" if name else part
        if stat.S_ISDIR(mode):
            writer.add_folder(place, mode)
            continue
        try:
            with (folder / name).open("rb") as file:
                writer.add(place, file, mode)
        except FileNotFoundError:
            break
    if _found(folder, without) != before:
        raise StoreError(
            f"{folder} changed while it was copied; end what writes there (a site's worker, `fedx "
            "site serve`, a run), and back it up again"
        )


def _found(folder: Path, without: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Look what lies in a folder, with what shows that something was changed."""
    state = folder.stat()
    found: dict[str, tuple[int, ...]] = {"": (state.st_mode,)}
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
        for entry in there:
            name = Path(entry.path).relative_to(folder).as_posix()
            if entry.name.startswith(".") or name in without:
                continue
            state = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode):
                found[name] = (state.st_mode,)
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(state.st_mode):
                found[name] = (state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino)
            else:
                raise StoreError(
                    f"{entry.path} is a link or no file, which a backup does not take; put what it "
                    "leads to in its place, or move it elsewhere"
                )
    return found


def _add_mlflow(writer: Writer, path: Path, scratch: Path) -> None:
    """Add a database as it stands between two transactions, by SQLite's own backup."""
    with tempfile.TemporaryDirectory(prefix=".fedx-backup-", dir=scratch) as folder:
        copy = Path(folder) / MLFLOW
        try:
            with (
                closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise PayloadError(
                f"{path} can't be read as MLflow's database ({error}); name another one with "
                "--mlflow, or move it away and make it again with `fedx sync`"
            ) from error
        with copy.open("rb") as file:
            writer.add(MLFLOW, file, path.stat().st_mode)
