"""Manifests of prepared sets: read as strictly as what comes from a network.

A set may come from elsewhere, and its manifest decides which files are opened and how much memory
is asked for. So lengths, counts and names are checked before anything follows from them.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedx_core.base import strict_json
from fedx_core.base.errors import DataError, VersionError

FORMAT = 1
MANIFEST = "manifest.json"

LARGEST = 1 << 27
"""Bytes that a manifest may have; it grows with clients and classes."""

MOST_BANDS = 1_000
MOST_CLASSES = 10_000
MOST_CLIENTS = 100_000
MOST_IMAGES = 1 << 40
LARGEST_SIDE = 1 << 15
"""Pixels of an image's side."""
LONGEST_NAME = 255
"""Characters of a class, a band, a group or a client."""

_FILE = re.compile(r"[^/\\\0]+")


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """Read a manifest as plain values, and hash it.

    Returns:
        The values, and the SHA-256 of the file.

    Raises:
        DataError: there is none, it is not JSON with one meaning, or it names what can't be.
        VersionError: another version of FedX wrote it.
    """
    path = Path(folder) / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        manifest = strict_json.loads(text, LARGEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"no {path}; prepare the data set first, with `fedx data NAME` or `dvc repro`"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} can't be read ({error}); prepare the set again with dvc repro --force"
        ) from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise VersionError(
            f"{path} has format {found!r}, this version reads {FORMAT}; prepare the set again with "
            "dvc repro --force"
        )
    try:
        _check(manifest)
    except DataError as error:
        raise DataError(f"{path}: {error}; prepare the set again with dvc repro --force") from error
    return dict(manifest), hashlib.sha256(text).hexdigest()


def check_names(what: str, names: Any, most: int) -> None:
    """Refuse too many names, and names that are none.

    Args:
        what: they are of, such as ``classes``.
        names: a list or tuple.
        most: how many there may be.

    Raises:
        DataError: says which.
    """
    if not isinstance(names, list | tuple) or len(names) > most:
        got = f"{len(names):,}" if isinstance(names, list | tuple) else type(names).__name__
        raise DataError(f"wanted a list of {most:,} {what} at most, got {got}")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise DataError(
                f"wanted names of {what} with 1 to {LONGEST_NAME} characters, got "
                f"{str(name)[:40]!r}"
            )


def _check(manifest: Mapping[str, Any]) -> None:
    """Refuse what none of our manifests says; what only one reader needs is left to it."""
    if not isinstance(manifest.get("settings", {}), Mapping):
        raise DataError("wanted a block of settings")
    for part, size in _block(manifest, "parts").items():
        _file(part)
        _count(f"images of {part!r}", size)
    for name, digest in _block(manifest, "files").items():
        _file(name)
        if not isinstance(digest, str):
            raise DataError(f"wanted the SHA-256 of {name!r}, got {type(digest).__name__}")
    if "clients" in manifest:
        _check_clients(manifest["clients"])
    if "class_names" in manifest:
        check_names("classes", manifest["class_names"], MOST_CLASSES)


def _check_clients(clients: Any) -> None:
    if not isinstance(clients, list) or not all(isinstance(each, Mapping) for each in clients):
        raise DataError("wanted a list of clients")
    names = [client.get("name") for client in clients]
    check_names("clients", names, MOST_CLIENTS)
    if len(set(names)) < len(names):
        raise DataError("two clients have the same name")
    for client in clients:
        _file(client["name"])
        sizes = _block(client, "sizes")
        for part in ("train", "test"):
            _count(f"{part} images of client {client['name']!r}", sizes.get(part))


def _block(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key, {})
    if not isinstance(found, Mapping):
        raise DataError(f"wanted a block of {key}, got {type(found).__name__}")
    return found


def _file(name: str) -> None:
    if not _FILE.fullmatch(name) or name in (".", "..") or len(name) > LONGEST_NAME:
        raise DataError(f"{name[:60]!r} can't be the name of a file here")


def _count(what: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= MOST_IMAGES:
        raise DataError(f"wanted the number of {what}, got {str(value)[:40]}")
