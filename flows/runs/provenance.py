"""Which data a run used, by names that hold for their content."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fedx_core.base import strict_yaml
from fedx_core.base.errors import FedXError
from fedx_core.images import set_folder, set_manifest

PARTS = ("prepared", "shards", "reference")

LARGEST_LOCK = 1 << 24
"""Bytes of the largest ``dvc.lock`` that is read; it grows with stages and their files."""


def of_data(data: Path) -> dict[str, dict[str, str]]:
    """Name the content of one data set's folders.

    A folder is called by the MD5 that ``dvc.lock`` has for it, if the folder is that: each manifest
    in it is the one that DVC has listed, and manifests hold the SHA-256 of every array. Where DVC
    doesn't know the folder, or its list is not in the cache here, the name is the SHA-256 of the
    folder's manifest.

    Args:
        data: folder with ``prepared``, ``shards`` and ``reference`` in it, of which some may be
            missing.

    Returns:
        By part: ``digest``, ``named_by`` (``dvc`` or ``manifest``) and ``path``.
    """
    found = {}
    for part in PARTS:
        folder = data.absolute() / part
        try:
            manifest = set_folder.digest(folder)
        except FedXError:
            continue
        by_dvc = _by_dvc(folder)
        found[part] = {
            "digest": by_dvc or manifest,
            "named_by": "dvc" if by_dvc else "manifest",
            "path": str(folder),
        }
    return found


def _by_dvc(folder: Path) -> str:
    root = next((up for up in folder.parents if (up / "dvc.lock").is_file()), None)
    if root is None:
        return ""
    name = _locked(root / "dvc.lock", folder.relative_to(root).as_posix())
    listed = root / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]
    try:
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(listed.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    here = {
        path.relative_to(folder).as_posix(): hashlib.md5(
            path.read_bytes(), usedforsecurity=False
        ).hexdigest()
        for path in folder.rglob(set_manifest.MANIFEST)
    }
    there = {path: md5 for path, md5 in files.items() if Path(path).name == set_manifest.MANIFEST}
    return name if here == there else ""


def _locked(lock: Path, path: str) -> str:
    """Return the name that a ``dvc.lock`` has for an output; empty if it has none."""
    try:
        stages: dict[str, Any] = strict_yaml.read(lock, LARGEST_LOCK)["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", [])]
        return next((str(out["md5"]) for out in outs if out["path"] == path), "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
