"""All runs of a folder, a row per run: what they are, how far they are, and what came of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedx_core.base.errors import FedXError
from flows.runs.live import HEADLINES
from flows.runs.rows import MIB
from flows.runs.run_folder import RunFolder
from flows.watching import watch

Row = dict[str, Any]


def rows(root: Path) -> list[Row]:
    """Look at each run of a folder.

    Args:
        root: folder of all runs.

    Returns:
        A row per run, the newest first: ``run``, ``state`` (going, finished, stopped, begun but
        without a round: absent, or damaged), ``method``, ``dataset``, ``rounds`` (done),
        ``rounds_planned``, ``metric`` and ``score`` (of the test images, by the last round),
        ``mib`` on the wire so far, ``started`` (ISO 8601); None where something is not known.
    """
    folders = [RunFolder(path) for path in root.iterdir()] if root.is_dir() else []
    found = [_row(folder) for folder in folders if folder.config.exists()]
    return sorted(found, key=lambda row: (row["started"] or "", row["run"]), reverse=True)


def _row(folder: RunFolder) -> Row:
    row: Row = {"run": folder.name, "state": "damaged", "started": None} | _settings(folder)
    numbers = dict.fromkeys(("rounds", "rounds_planned", "metric", "score", "mib"))
    try:
        row["started"] = folder.notes().get("started")
        seen = watch.look(folder)
    except FedXError:
        return row | numbers
    row |= {"state": seen.state, "rounds": len(seen.reports), "rounds_planned": seen.rounds}
    if not seen.reports:
        return numbers | row
    scores = seen.reports[-1].metrics
    metric = next((name for name in HEADLINES if name in scores), None)
    return row | {
        "metric": metric,
        "score": scores.get(metric or ""),
        "mib": sum(report.wire_bytes for report in seen.reports) / MIB,
    }


def _settings(folder: RunFolder) -> Row:
    """Read two settings as they stand there, also where an older version has written them."""
    import yaml

    try:
        found = yaml.safe_load(folder.config.read_text())
        method = found["method"]
        return {
            "method": method["name"] if isinstance(method, Mapping) else None,
            "dataset": found["dataset"],
        }
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return {"method": None, "dataset": None}
