"""What a machine brings along: a proxy, a home that can't be written, servers that are gone."""

import os
import socket
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_STACK = ("PREFECT_API_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI")


def ask_this_machine_directly(environment: MutableMapping[str, str]) -> None:
    """Except this machine from a proxy, which has no way to its servers.

    Without a proxy nothing is set, since on a Mac that would hide the system's own.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in _PROXIES):
        return
    # Of the two spellings most programs take the first that they find.
    said = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    present = [host.strip() for host in said.split(",") if host.strip()]
    wanted = ",".join(dict.fromkeys([*present, *LOOPBACK]))
    environment["no_proxy"] = environment["NO_PROXY"] = wanted


def find_a_home(environment: MutableMapping[str, str]) -> None:
    """Put what Prefect and matplotlib keep in a home elsewhere, where there is none to write in."""
    homes = {"PREFECT_HOME": ".prefect", "MPLCONFIGDIR": ".config/matplotlib"}
    for name, place in homes.items():
        if name not in environment and not _can_be_made(Path("~", place)):
            folder = Path(tempfile.gettempdir()) / f"fedx-{os.getuid()}" / place.rpartition("/")[2]
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment[name] = str(folder)


def gone(store: str, environment: Mapping[str, str], *, engine: bool) -> str:
    """Say that servers of this machine are down that a run would need; empty where none is.

    Args:
        store: URI of the run's store.
        environment: of this shell, which says where servers are.
        engine: whether Prefect carries the run.
    """
    needed = [*(["PREFECT_API_URL"] if engine else [])]
    needed += ["AWS_ENDPOINT_URL_S3"] if store.startswith("s3://") else []
    down = {name: environment[name] for name in needed if _is_down(environment.get(name, ""))}
    if not down:
        return ""
    unset = [name for name in (*_STACK, "FEDX_STORE") if name in environment]
    return (
        f"nothing answers at {' and '.join(down.values())}, where this shell looks for servers "
        f"({', '.join(down)}); start them with `make up`, or do without: "
        f"`unset {' '.join(unset)}`"
    )


def _is_down(url: str) -> bool:
    """Whether an address of this machine refuses connections."""
    parts = urlsplit(url)
    if parts.hostname not in LOOPBACK or not parts.port:
        return False
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _can_be_made(folder: Path) -> bool:
    try:
        folder = folder.expanduser()
        while not folder.exists():
            folder = folder.parent
    except (OSError, RuntimeError):  # a home that is a file, or nobody's
        return False
    return folder.is_dir() and os.access(folder, os.W_OK)
