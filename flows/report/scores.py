"""What the runs score class by class and client by client, and what label frequencies alone do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedx_core.learning import evaluation
from flows.report.gather import Run
from flows.report.outcome import SHARE
from flows.report.parts import Cell, Column, Section, Table, slug

FREQUENCIES = "label frequencies"
FLOOR = (
    "Label frequencies are what a predictor gets that has seen no image and gives each label its "
    "share of images: the floor that a model has to beat."
)


def section(runs: Sequence[Run]) -> Section:
    """Write the section about scores by class and by client, tables of their own a data set."""
    missing = [
        f"{run.name} has no scores by class and client yet; they come with its last round."
        for run in runs
        if not run.summary["per_class"] and not run.summary["per_client"]
    ]
    tables: list[Table] = []
    for dataset in dict.fromkeys(run.record.settings.dataset for run in runs):
        alike = [run for run in runs if run.record.settings.dataset == dataset]
        found = (_floor(dataset, alike), _by_class(dataset, alike), by_client(dataset, alike))
        tables += [table for table in found if table is not None]
    return Section("scores", "Classes and clients", tables=tables, missing=missing)


def by_client(dataset: str, runs: Sequence[Run]) -> Table | None:
    """Show what each client's own test images score, and how many they are.

    Args:
        dataset: that all runs are on.
        runs: at least one.

    Returns:
        None where no run has such scores yet.
    """
    clients = dict.fromkeys(name for run in runs for name in run.summary["per_client"])
    if not clients:
        return None
    floors = next((found for run in runs if (found := _floors(run))), {})
    scores = [Column(run.name, SHARE) for run in runs]
    floor = [Column(FREQUENCIES, SHARE)] if floors else []
    return Table(
        name=slug("scores-by-client", dataset),
        title=f"Score of each client's own test images of {dataset}, after the last round",
        columns=[Column("client"), Column("images", ",d"), *scores, *floor],
        rows=[[*_client(name, runs), *([floors.get(name)] if floors else [])] for name in clients],
        note=f"{FLOOR} Here the shares are those of all clients' training images, and scores are "
        "micro average precision. Scores of few images say little."
        if floors
        else "",
    )


def _by_class(dataset: str, runs: Sequence[Run]) -> Table | None:
    classes = dict.fromkeys(name for run in runs for name in run.summary["per_class"])
    if not classes:
        return None
    counted = next((run.clients for run in runs if run.clients is not None), {})
    classes = dict.fromkeys([*counted.get("class_names", ()), *classes])
    absent = [n for n in classes if all(n not in run.summary["per_class"] for run in runs)]
    return Table(
        name=slug("scores-by-class", dataset),
        title=f"Test score by class of {dataset}, after the last round",
        columns=[Column("class"), *(Column(run.name, SHARE) for run in runs)],
        rows=[[name, *(run.summary["per_class"].get(name) for run in runs)] for name in classes],
        note="Share of a class's images that were recognised where an image has one label; average "
        "precision where it has several; intersection over union where its pixels have one each."
        + (f" No test image bears {', '.join(absent)}." if absent else ""),
    )


def _floor(dataset: str, runs: Sequence[Run]) -> Table | None:
    """Put the runs beside label frequencies alone, where images have several labels."""
    metrics = [run.summary["metrics"] for run in runs]
    names = [
        name
        for name in ("micro_map", "macro_map")
        if any(f"label_frequency_{name}" in found for found in metrics)
    ]
    if not names:
        return None
    rows: list[list[Cell]] = []
    for name in names:
        known = (found.get(f"label_frequency_{name}") for found in metrics)
        floor = next(score for score in known if score is not None)
        rows.append([name, *(found.get(name) for found in metrics), floor])
    return Table(
        name=slug("scores-and-floor", dataset),
        title=f"Test scores of {dataset} beside label frequencies alone",
        columns=[
            Column("metric"), *(Column(run.name, SHARE) for run in runs), Column(FREQUENCIES, SHARE)
        ],
        rows=rows,
        note=f"{FLOOR} The shares are those of the validation images.",
    )  # fmt: skip


def _client(name: str, runs: Sequence[Run]) -> list[Cell]:
    found = [run.summary["per_client"].get(name, {}) for run in runs]
    images = next((int(own["examples"]) for own in found if "examples" in own), None)
    scores = [own.get(run.metric) for own, run in zip(found, runs, strict=True)]
    return [name, images, *scores]


def _floors(run: Run) -> dict[str, float | None]:
    """Score label frequencies alone on each client's test images, by counts of what they hold.

    Returns:
        By client; empty where images have one label, or nobody has counted.
    """
    if run.clients is None or run.clients["label_kind"] != "multi":
        return {}
    clients: Sequence[Mapping[str, Any]] = run.clients["clients"]
    seen = np.sum([client["labels"]["train"] for client in clients], axis=0)
    shares = seen / max(sum(client["sizes"]["train"] for client in clients), 1)
    return {
        client["name"]: evaluation.label_frequency_precision(
            shares, np.array(client["labels"]["test"]), client["sizes"]["test"]
        )
        for client in clients
    }
