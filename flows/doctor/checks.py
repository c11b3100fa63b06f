"""What `fedx doctor` looks at: versions, data, disk, threads, servers; each with what mends it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedx_core.base import config, cores
from fedx_core.base.errors import FedXError
from fedx_core.images import set_folder
from fedx_core.store import S3Store, open_store

INSTALL = "pip install -c constraints.txt -e ."
# From pyproject.toml; what is installed there may be read while the package itself is not.
WANTED = {
    "torch": ((2, 6), None),
    "torchvision": ((0, 21), None),
    "prefect": ((3, 8, 8), (3, 10)),
    "fastapi": ((0, 139), (0, 151)),
    "mlflow": ((3, 13), (4,)),
    "zennit": ((0, 5, 1), (2,)),
    "timm": ((1, 0, 15), None),
}
FREE_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        what: it is about.
        ok: whether a run can do with it.
        found: what was found.
        fix: what to do if it isn't ok.
    """

    what: str
    ok: bool
    found: str
    fix: str = ""


def examine(params: Path, run_root: Path, data_root: Path, store: str | None = None) -> list[Check]:
    """Look at everything that a run needs.

    Args:
        params: file with the settings.
        run_root: folder of all runs.
        data_root: folder of all data sets.
        store: URI that the runs share; None keeps each run's in its folder.
    """
    return [
        python(),
        *(_package(name) for name in WANTED),
        _threads(),
        *_sixteen_bits(),
        *_data(params, data_root),
        _writable(run_root),
        disk(run_root),
        *_store(store),
        *prefect(),
    ]


def python() -> Check:
    """Look at the interpreter."""
    found = platform.python_version_tuple()
    ok = (3, 11) <= (int(found[0]), int(found[1])) < (3, 14)
    return Check("python", ok, ".".join(found), "use Python 3.11, 3.12 or 3.13")


def _package(name: str) -> Check:
    least, below = WANTED[name]
    wanted = f"{name}>={_dotted(least)}" + (f",<{_dotted(below)}" if below else "")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", f"{INSTALL} (it wants {wanted})")
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:3] if part.isdigit())
    ok = numbers >= least and (below is None or numbers < below)
    return Check(name, ok, found, f"{INSTALL} (it wants {wanted})")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _threads() -> Check:
    allowed = cores.allowed()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return Check(
        "threads",
        True,
        f"{allowed} cores, so {allowed} clients at once (--workers), each with training.threads"
        + (f"; OMP_NUM_THREADS={limit}" if limit else ""),
    )


def _sixteen_bits() -> Iterator[Check]:
    if cores.sixteen_bits():
        said = "training.cpu_amp=true trains in them, ResNets in 0.6 of the time"
        yield Check("16 bits", True, f"this processor computes with them; {said}")


def _data(params: Path, root: Path) -> Iterator[Check]:
    try:
        settings = config.load(params)
    except FedXError as error:
        yield Check("settings", False, f"{error.code}: {error}", "mend the file, or pass --params")
        return
    yield Check("settings", True, str(params))
    folder = root / settings.dataset
    try:
        prepared = set_folder.read(folder / "prepared", "test")
        set_folder.read(folder / "reference")
        clients = set_folder.read_manifest(folder / "shards")["clients"]
        images = sum(prepared.manifest["parts"].values())
        yield Check("data", True, f"{settings.dataset}: {images} images, {len(clients)} clients")
    except FedXError as error:
        yield Check("data", False, str(error), f"fedx data {settings.dataset}")


def _writable(root: Path) -> Check:
    existing = _existing(root)
    ok = os.access(existing, os.W_OK)
    return Check(
        "run folder", ok, f"{root} {'can' if ok else 'can not'} be written",
        "choose another with --run-root, or FEDX_RUN_ROOT",
    )  # fmt: skip


def disk(root: Path, fix: str = "free some, or choose another --run-root") -> Check:
    """Look how much room there is.

    Args:
        root: folder that fills, or will once it is made.
        fix: what to do if there is little.
    """
    free = shutil.disk_usage(_existing(root)).free / 2**30
    return Check("disk", free >= FREE_GIB, f"{free:.1f} GiB free", fix)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _store(uri: str | None) -> Iterator[Check]:
    """Look whether a shared store answers and keeps what the rounds rely on."""
    if uri is None:
        return
    try:
        store = open_store(uri)
        if isinstance(store, S3Store):
            store.check()
        else:
            store.read("run.json")
        yield Check("store", True, f"{uri} answers")
    except FedXError as error:
        yield Check("store", False, str(error), "mend that, or unset FEDX_STORE")


def prefect(
    fix: str = "start it with `make up`, or unset PREFECT_API_URL",
    unset: str = "none is set; each run starts one of its own",
) -> Iterator[Check]:
    """Look whether Prefect's server answers.

    Args:
        fix: what to do if it doesn't.
        unset: what is said if there is none to ask.
    """
    import urllib.request

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        yield Check("prefect server", True, unset)
        return
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            yield Check("prefect server", answer.status == 200, f"{url} answers")
    except (OSError, ValueError) as error:
        yield Check("prefect server", False, f"{url} does not answer ({error})", fix)
