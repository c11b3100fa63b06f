"""What the runs score class by class and client by client."""

from collections.abc import Sequence

from flows.report.gather import Run
from flows.report.outcome import SHARE
from flows.report.parts import Cell, Column, Section, Table, slug


def section(runs: Sequence[Run]) -> Section:
    """Write the section about scores by class and by client, a table a data set."""
    missing = [
        f"{run.name} has no scores by class and client yet; they come with its last round."
        for run in runs
        if not run.summary["per_class"] and not run.summary["per_client"]
    ]
    tables = []
    for dataset in dict.fromkeys(run.record.settings.dataset for run in runs):
        alike = [run for run in runs if run.record.settings.dataset == dataset]
        scores = [Column(run.name, SHARE) for run in alike]
        if classes := dict.fromkeys(name for run in alike for name in run.summary["per_class"]):
            tables.append(
                Table(
                    name=slug("scores-by-class", dataset),
                    title=f"Test score by class of {dataset}, after the last round",
                    columns=[Column("class"), *scores],
                    rows=[
                        [name, *(run.summary["per_class"].get(name) for run in alike)]
                        for name in classes
                    ],
                    note="Share of a class's images that were recognised where an image has one "
                    "label; average precision where it has several.",
                )
            )
        if clients := dict.fromkeys(name for run in alike for name in run.summary["per_client"]):
            tables.append(
                Table(
                    name=slug("scores-by-client", dataset),
                    title=f"Score of each client's own test images of {dataset}, after the last "
                    "round",
                    columns=[Column("client"), Column("images", ",d"), *scores],
                    rows=[_client(name, alike) for name in clients],
                )
            )
    return Section("scores", "Classes and clients", tables=tables, missing=missing)


def _client(name: str, runs: Sequence[Run]) -> list[Cell]:
    found = [run.summary["per_client"].get(name, {}) for run in runs]
    images = next((int(own["examples"]) for own in found if "examples" in own), None)
    scores = [own.get(run.metric) for own, run in zip(found, runs, strict=True)]
    return [name, images, *scores]
