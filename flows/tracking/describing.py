"""What a copy says of its run: parameters, tags, data, and links."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from fedx_core.base import strict_json
from flows.runs.record import Record
from flows.tracking import charts, content, sweeps

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

    from flows.tracking.copying import Copy

_PARAMETERS_AT_ONCE = 100
_USES = {"shards": "training", "reference": "relevance", "prepared": "test"}


def describe(copy: "Copy", run: "Run", record: Record) -> None:
    """Send parameters, tags and data that are not there yet; a parameter can't be changed."""
    from mlflow.entities import Param

    parameters = iter(
        Param(name, value)
        for name, value in content.flat_parameters(record.settings).items()
        if name not in run.data.params
    )
    while some := list(islice(parameters, _PARAMETERS_AT_ONCE)):
        copy.client.log_batch(copy.run_id, params=some, synchronous=True)
    notes = record.notes
    tags = {
        "fedx.run": record.name,
        "fedx.rounds": str(record.settings.federation.rounds),
        "fedx.version": notes.get("fedx_version", ""),
        "mlflow.source.name": "fedx",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": notes.get("git_commit", ""),
        "prefect.run": notes.get("prefect_run", ""),
        "mlflow.note.content": _note(copy, notes),
        "fedx.sweep": notes.get("sweep", ""),
    }
    if tags["fedx.sweep"]:
        tags["mlflow.parentRunId"] = sweeps.parent(
            copy.client, copy.experiment_id, tags["fedx.sweep"]
        )
    copy.tag({name: value for name, value in tags.items() if value})
    known = run.inputs.dataset_inputs if run.inputs else []
    present = {(entry.dataset.name, entry.dataset.digest) for entry in known}
    missing = [
        entry
        for entry in _inputs(record)
        if (entry.dataset.name, entry.dataset.digest) not in present
    ]
    if missing:
        copy.client.log_inputs(copy.run_id, missing)


def _note(copy: "Copy", notes: Mapping[str, Any]) -> str:
    """Link a run's page to the charts and to Prefect, as Markdown."""
    # Pages of MLflow are reached under names of their own, so a link to itself names none.
    lines = [f"[Charts](#{charts.path(copy.experiment_id)})"]
    if notes.get("prefect_page"):
        lines.append(f"[Prefect's page of this run]({notes['prefect_page']})")
    return "\n\n".join(lines)


def _inputs(record: Record) -> Iterator["DatasetInput"]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for part, about in record.notes.get("data", {}).items():
        name = {"dvc": "dvc.md5", "manifest": "manifest.sha256"}[about["named_by"]]
        tags = {"mlflow.data.context": _USES[part], name: about["digest"]}
        yield DatasetInput(
            Dataset(
                name=f"{record.settings.dataset}/{part}",
                digest=about["digest"][:36],  # MLflow takes no more; DVC's have 36
                source_type="local",
                source=strict_json.dumps({"uri": about["path"]}),
            ),
            [InputTag(key, value) for key, value in tags.items()],
        )
