"""What comes out of a backup: all of it or nothing, and never over what is there.

Where it goes is said by who restores, never by the archive. Everything is checked first, then
written beside its place, then moved there. A run whose store was shared gets it back where a shared
store is named, and otherwise in its folder.
"""

import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from fedx_core.base import strict_yaml, unfinished
from fedx_core.base.errors import AlreadyExistsError, ConfigError, FedXError, StoreError
from fedx_core.record.journal import RUN_KEY
from fedx_core.store import Store, open_store
from flows.backup import archive
from flows.backup.archive import HOMES, MLFLOW, Archive, Manifest
from flows.runs import run_folder
from flows.runs.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things go.

    Args:
        run_root: folder of all runs.
        store: what runs share; None for nothing.
        coordinator: the coordinator's folder.
        site: the site's folder.
        mlflow: MLflow's SQLite file.
    """

    run_root: Path
    store: str | None
    coordinator: Path
    site: Path
    mlflow: Path

    @classmethod
    def below(cls, folder: Path) -> "Places":
        """Put everything below one folder, the stores of runs too."""
        return cls(
            run_root=folder / "runs",
            store=None,
            coordinator=folder / "sites",
            site=folder / "site",
            mlflow=folder / MLFLOW,
        )


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was put in place.

    Args:
        stores: by run, where its store is now.
        places: folders and files.
        files: how many.
    """

    stores: Mapping[str, str]
    places: tuple[Path, ...]
    files: int


def restore(path: Path, places: Places, runs: Collection[str] = ()) -> Restored:
    """Put everything that a backup holds in place.

    Args:
        path: of the file.
        places: where things go.
        runs: these alone, and nothing else; none for everything.

    Raises:
        AlreadyExistsError: something is there already.
        PayloadError: the backup is damaged, or not as one is written.
        VersionError: another version has made it.
        StoreError: the disk is full, or something can't be written.
    """
    with archive.opened(path) as found:
        targets = _targets(found.manifest, places, runs)
        shared = {
            run: run_folder.part_of(places.store, run)
            for run in found.manifest.stores
            if f"runs/{run}" in targets and found.manifest.stores[run] and places.store
        }
        for target in targets.values():
            _check_free(target)
        for uri in shared.values():
            if open_store(uri).read(RUN_KEY) is not None:
                raise AlreadyExistsError(f"{uri} holds a run; name another place with --store")
        found.verify()
        try:
            files = _put(found, targets, shared)
        except FedXError:
            raise
        except OSError as error:
            raise StoreError(
                f"can't write {error.filename or 'what is restored'}: {error.strerror or error}; "
                "nothing was put in place, free the disk or choose another with --into"
            ) from error
        stores = {
            run: shared.get(run, run_folder.store_of(None, RunFolder(targets[f"runs/{run}"])))
            for run in found.manifest.stores
            if f"runs/{run}" in targets
        }
        return Restored(stores=stores, places=tuple(targets.values()), files=files)


def _targets(manifest: Manifest, places: Places, runs: Collection[str]) -> dict[str, Path]:
    """Say where each part goes."""
    if unknown := sorted(set(runs) - set(manifest.stores)):
        there = ", ".join(sorted(manifest.stores)) or "none"
        raise ConfigError(f"no run {unknown[0]!r} in the backup; there are {there}")
    found = {f"runs/{run}": places.run_root / run for run in runs or manifest.stores}
    if not runs:
        homes = dict(zip(HOMES, (places.coordinator, places.site), strict=True))
        found |= {part: folder for part, folder in homes.items() if part in manifest.folders}
        found |= {MLFLOW: places.mlflow} if MLFLOW in manifest.files else {}
    return found


def _check_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not _is_empty(target)):
        raise AlreadyExistsError(
            f"{target} is there, and nothing is overwritten; move it away, or restore elsewhere "
            "with --into"
        )


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _put(found: Archive, targets: Mapping[str, Path], shared: Mapping[str, str]) -> int:
    """Write everything beside its place, then move it there; count the files."""
    count = 0
    with ExitStack() as undone, ExitStack() as staging:
        staged: dict[str, Path] = {}
        for part, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = staging.enter_context(unfinished.folder_beside(target.absolute()))
            run = part.removeprefix("runs/") if part.startswith("runs/") else ""
            left_out = f"{part}/store/" if run in shared else None
            count += _write(found, part, beside / "it", left_out)
            if run:
                uri = shared.get(run, run_folder.store_of(None, RunFolder(target)))
                _note_store(beside / "it", uri)
            staged[part] = beside / "it"
        for run, uri in shared.items():
            store = open_store(uri)
            count += _fill(found, f"runs/{run}/store/", store, uri, undone)
        for part, target in targets.items():
            _move(staged[part], target)
            undone.callback(_remove, target)
            if part in found.manifest.folders:
                target.chmod(found.manifest.folders[part])
        undone.pop_all()  # all of it is there
    return count


def _write(found: Archive, part: str, place: Path, without: str | None) -> int:
    """Write one part; each file is forced onto the disk, and has its mode before it has bytes."""

    def here(name: str) -> bool:
        inside = name == part or name.startswith(f"{part}/")
        return inside and not (without and f"{name}/".startswith(without))

    def at(name: str) -> Path:
        return place / name[len(part) + 1 :] if name != part else place

    folders = sorted(filter(here, found.manifest.folders))
    for name in folders:
        at(name).mkdir(mode=0o700)
    files = [name for name in found.manifest.files if here(name)]
    for name in files:
        mode = found.manifest.files[name].mode
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(at(name), flags, mode & 0o600), "wb") as file:
            found.copy(name, file.write)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    for name in reversed(folders):
        if name != part:  # that one must be writable to be moved
            at(name).chmod(found.manifest.folders[name])
    return len(files)


def _note_store(folder: Path, uri: str) -> None:
    """Let a run's folder say where its store is now, and not where it was."""
    about = RunFolder(folder).about
    if about.exists():
        mode = about.stat().st_mode
        notes = dict(strict_yaml.read(about) or {})
        run_folder.write_yaml(about, {**notes, "store": uri})
        about.chmod(mode)


def _fill(found: Archive, prefix: str, store: Store, uri: str, undone: ExitStack) -> int:
    """Create a run's objects in a shared store; ``run.json``, which makes a run of it, is last.

    What is there with the same bytes was left by a restore that was killed, and stays.
    """
    names = [name for name in found.manifest.files if name.startswith(prefix)]
    for name in sorted(names, key=lambda name: name == prefix + RUN_KEY):
        key, data = name.removeprefix(prefix), found.read(name)
        present = store.read(key)
        if present is None:
            store.create(key, data)
            undone.callback(_forget, store, key)
        elif bytes(present) != data:
            raise AlreadyExistsError(
                f"{key} is there in {uri}, with other bytes; delete what is left of the run there, "
                "or name another place with --store"
            )
    return len(names)


def _forget(store: Store, key: str) -> None:
    with suppress(FedXError):
        store.delete(key)


def _move(staged: Path, target: Path) -> None:
    """Move a folder or file to where nothing is, or an empty folder."""
    if staged.is_dir():
        staged.rename(target)
        return
    try:
        os.link(staged, target)
    except FileExistsError:
        _check_free(target)
        raise


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)
