"""Models of runs as versions of ``fedx-<data set>-<model>``, one of them with the alias ``best``.

A version is a folder with ``model.safetensors`` and ``config.yaml``: no pickle, and all that
``fedx`` needs to use it. ``models:/fedx-eurosat-resnet18@best`` names one for MLflow.

``best`` is the version with the highest score on the validation images, since to choose by the
test images would make that score too good. Where no version has a validation score, it is the one
with the highest test score, and the registered model says so in its description and in the tag
``fedx.best_by``. Only versions of the same images count as rivals: those of the newest version.
Of equals the earliest stays, so the same versions give the same ``best`` whoever asks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedx_core.learning.evaluation import PRIMARY
from flows.runs.record import Record
from flows.tracking import content

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "best"
METRIC, DATA, BYTES = "fedx.metric", "fedx.data", "fedx.sha256"
SCORED = {"validation": "fedx.validation", "test": "fedx.test"}


@dataclass(frozen=True, kw_only=True)
class Version:
    """A model to register.

    Args:
        name: of the registered model.
        place: folder among the run's files.
        tags: what it is, and what it scored.
    """

    name: str
    place: str
    tags: Mapping[str, str]


def version_of(record: Record, round_index: int, sha256: str) -> Version:
    """Describe a model of a run.

    Args:
        record: of the run.
        round_index: after which the model is.
        sha256: of its file.
    """
    settings = record.settings
    report = next(r for r in record.reports if r.round_index == round_index)
    metric = next((name for name in PRIMARY.values() if name in report.metrics), "")
    scores = {"test": report.metrics, "validation": report.validation}
    return Version(
        name=content.named(f"fedx-{settings.dataset}-{settings.model.name}"),
        # A resumed run ends in another model; the earlier version keeps its own files.
        place=f"models/{round_index:04d}-{sha256[:8]}",
        tags={
            "fedx.run": record.name,
            "fedx.round": str(round_index),
            METRIC: metric,
            **{SCORED[k]: repr(v[metric]) for k, v in scores.items() if metric in v},
            "fedx.sparsity": repr(report.sparsity),
            DATA: record.notes.get("data", {}).get("prepared", {}).get("digest", ""),
            BYTES: sha256,
        },
    )


def is_registered(client: "MlflowClient", run_id: str, version: Version) -> bool:
    """Say whether a run's model is a version already."""
    found = client.search_model_versions(f"run_id = '{run_id}'")
    return any(v.name == version.name and v.tags.get(BYTES) == version.tags[BYTES] for v in found)


def register(client: "MlflowClient", run_id: str, source: str, version: Version) -> int:
    """Make a new version of what lies at ``source``, and see who is best; returns its number."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(version.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        version.name,
        source,
        run_id,
        tags=dict(version.tags),
        description=_says(version),
        await_creation_for=0,
    )
    _crown(client, version.name)
    return int(made.version)


def best(versions: Sequence["ModelVersion"]) -> tuple[int, str]:
    """Choose the best of a registered model's versions; see the module.

    Returns:
        Its number, and the split whose score decided.
    """
    newest = max(versions, key=lambda v: int(v.version))
    rivals = [
        v for v in versions if all(v.tags.get(t) == newest.tags.get(t) for t in (DATA, METRIC))
    ]
    for split, tag in SCORED.items():
        scored = [v for v in rivals if tag in v.tags]
        if scored:
            chosen = max(scored, key=lambda v: (float(v.tags[tag]), -int(v.version)))
            return int(chosen.version), split
    return int(newest.version), "nothing"


def _crown(client: "MlflowClient", name: str) -> None:
    for _ in range(3):  # a run that ends at the same time may have looked before ours was there
        number, split = best(client.search_model_versions(f"name = '{name}'"))
        model = client.get_registered_model(name)
        if str(model.aliases.get(ALIAS, "")) == str(number):
            break
        client.set_registered_model_alias(name, ALIAS, str(number))
    said = {
        "validation": "highest score on the validation images",
        "test": "highest score on the test images, since no version was scored on others: too "
        "good to be reported as a test score",
        "nothing": "the newest version, since none has a score",
    }[split]
    if model.tags.get("fedx.best_by") != split:
        client.set_registered_model_tag(name, "fedx.best_by", split)
        client.update_registered_model(name, f"`{ALIAS}`: {said}.")


def _says(version: Version) -> str:
    tags = version.tags
    scores = ", ".join(f"{split} {tags[t]}" for split, t in SCORED.items() if t in tags)
    return f"Run {tags['fedx.run']} after round {tags['fedx.round']}: {tags[METRIC]} {scores}"
