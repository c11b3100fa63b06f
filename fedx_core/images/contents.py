"""What a run's data hold, by hashes: equal where images and labels are, whoever prepared them.

    test                 of the prepared set
    reference, tuning, public    of the server's own images
    shards/<client>      of each client whose images are on this machine

Each is the SHA-256 of the part's arrays, by their own SHA-256 in the manifest, and of what their
values mean. Settings and notes, which newer versions add to, are left out.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedx_core.base import strict_json
from fedx_core.base.errors import DataError
from fedx_core.images import set_folder
from fedx_core.images.set_manifest import MANIFEST

_MEANING = ("bands", "class_names", "label_kind", "scale")


def of_server(data: Path) -> dict[str, str]:
    """Name the content of the server's data.

    Args:
        data: folder with ``prepared`` and ``reference`` in it.

    Raises:
        DataError: a set is missing.
    """
    held_back = set_folder.read_manifest(data / "reference")
    found = {"test": _part(set_folder.read_manifest(data / "prepared"), "test.")}
    return found | {part: _part(held_back, f"{part}.") for part in held_back["parts"]}


def of_data(data: Path, shards: Path) -> dict[str, str]:
    """Name the content of all data that a run uses.

    Args:
        data: as for :func:`of_server`.
        shards: folder of the clients' sets.

    Raises:
        DataError: a set is missing.
    """
    found = of_server(data)
    for client in set_folder.read_manifest(shards)["clients"]:
        folder = shards / client["name"]
        if (folder / MANIFEST).is_file():  # sites keep theirs to themselves
            found[f"shards/{client['name']}"] = _part(set_folder.read_manifest(folder))
    return found


def stamp(data: Path, shards: Path) -> tuple[tuple[int, int], ...]:
    """Say cheaply whether data may have been prepared anew: equal stamps mean they were not."""
    manifests = [folder / MANIFEST for folder in (data / "prepared", data / "reference", shards)]
    found = [path.stat() for path in manifests if path.exists()]
    return tuple((about.st_ino, about.st_mtime_ns) for about in found)


def check_same(before: Mapping[str, str], now: Mapping[str, str], run: str, dataset: str) -> None:
    """Refuse data that are not those of before; what is known of one side alone is let pass.

    Args:
        before: content with which a run began; empty where it began with an older version.
        now: content of what is there.
        run: name of that run.
        dataset: its key, for the message.

    Raises:
        DataError: a part holds other images or labels.
    """
    changed = [part for part, found in now.items() if before.get(part, found) != found]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise DataError(
            f"data set {dataset!r} holds other images or labels than when run {run!r} began: "
            f"{', '.join(changed[:3])}{more} changed; prepare it again from the images and "
            "settings of then, or start a new run with another --run"
        )


def _part(manifest: Mapping[str, Any], prefix: str = "") -> str:
    files = {name: sha for name, sha in manifest["files"].items() if name.startswith(prefix)}
    meaning = {name: manifest["description"][name] for name in _MEANING}
    text = strict_json.dumps([files, meaning], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
