"""MLflow's experiment opens on prepared charts: scores against what was transmitted, first of all.

A view is an experiment tag that MLflow's pages read when their address names it. The format is
MLflow's own and documented nowhere; it is that of 3.17, and a browser test guards it.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fedx_core.base import strict_json
from fedx_core.learning.evaluation import PRIMARY
from fedx_core.wire.messages import RoundReport
from flows.runs.live import HEADLINES
from flows.tracking import places

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW = "fedx"
TAG = f"mlflow.sharedViewState.{VIEW}"
NOTE = "mlflow.note.content"
SCORES = "fedx.scores"
SENT = "wire/cumulative_mib"
NAMES = {f"test/{metric}": name for metric, name in HEADLINES.items()}
"""What charts call a score."""
TRAINING = "workflowType=machine_learning"
"""Of an address: otherwise MLflow shows a run among evaluations of language models."""

_OPENING = "Federated runs of FedX."


def path(experiment_id: str) -> str:
    """Return the charts' address within MLflow's pages: what follows ``#``."""
    view = f"compareRunsMode=CHART&viewStateShareKey={VIEW}&{TRAINING}"
    return f"/experiments/{experiment_id}/runs?{view}"


def chart_url(uri: str, experiment_id: str) -> str:
    """Return the address of an experiment's charts.

    Args:
        uri: of the tracking server; for a database, of the server that somebody starts to show it.
        experiment_id: at it.
    """
    return f"{places.ui_of(uri)}/#{path(experiment_id)}"


def where(uri: str, experiment_id: str) -> str:
    """Say in one line where an experiment's charts are."""
    url = chart_url(uri, experiment_id)
    if places.ui_of(uri) == places.public(uri).rstrip("/"):
        return f"charts: {url}"
    return f"charts: {url} (while `mlflow server --backend-store-uri {places.public(uri)}` runs)"


def scores_of(report: RoundReport) -> frozenset[str]:
    """Name the scores of a round that charts show."""
    return frozenset(f"test/{name}" for name in PRIMARY.values() if name in report.metrics)


def prepare(client: "MlflowClient", experiment_id: str, scores: Iterable[str]) -> frozenset[str]:
    """Leave the view and a description that links to it; changes nothing where they are.

    Args:
        client: of the tracking server or database.
        experiment_id: at it.
        scores: to show besides those that are shown already; MLflow would draw empty tiles for
            scores that no run has.

    Returns:
        The scores that are shown then.
    """
    tags = client.get_experiment(experiment_id).tags
    shown = sorted({*scores, *tags.get(SCORES, "").split()})
    wanted = {SCORES: " ".join(shown), TAG: view(shown)}
    for name, value in wanted.items():
        if tags.get(name, "") != value:
            client.set_experiment_tag(experiment_id, name, value)
    said = tags.get(NOTE, "")
    # What somebody else wrote there stays.
    if (not said or said.startswith(_OPENING)) and said != (text := description(experiment_id)):
        client.set_experiment_tag(experiment_id, NOTE, text)
    return frozenset(shown)


def description(experiment_id: str) -> str:
    """Return the experiment's description, as Markdown."""
    return (
        f"{_OPENING} [Charts: scores against MiB transmitted, per round, and sparsity]"
        f"(#{path(experiment_id)})"
    )


def view(scores: Sequence[str]) -> str:
    """Return the view as MLflow keeps it: equal scores, equal text."""
    text = strict_json.dumps(_state(scores), separators=(",", ":")).encode()
    return "deflate;" + base64.b64encode(zlib.compress(text, 9)).decode()


def _state(scores: Sequence[str]) -> dict[str, Any]:
    # MLflow calls a chart after its metric, whatever its name is; a section's title is shown.
    sections: dict[str, list[dict[str, Any]]] = {}
    for score in scores:
        name = NAMES.get(score, score)
        sections[f"{name} against MiB transmitted (right: last round)"] = [
            _line(score, SENT), _scatter(score, SENT)
        ]  # fmt: skip
    names = [NAMES.get(score, score) for score in scores]
    by_round = " and ".join([*names, "sparsity"])
    sections[f"{by_round} by round"] = [*map(_line, scores), _line("sparsity")]
    for score in scores:
        title = f"{NAMES.get(score, score)} against MiB as the paper counts them"
        sections[title] = [_line(score, "paper/cumulative_mib")]
    tiles = [
        {**tile, "metricSectionId": _section(number)}
        for number, inside in enumerate(sections.values())
        for tile in inside
    ]
    return {
        "compareRunCharts": [{**tile, "uuid": f"fedx-{n}"} for n, tile in enumerate(tiles)],
        "compareRunSections": [
            {
                "uuid": _section(number),
                "name": title,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,  # of three, names of metrics and legends are cut off
                "cardHeight": 300,  # pixels; all of them are then seen at once
            }
            for number, title in enumerate(sections)
        ],
        # Our section stays the first: MLflow sorts sections by name unless they were moved.
        "isAccordionReordered": True,
        "runsHiddenMode": "FIRST_20_RUNS",
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "selectedColumns": ["attributes.`Source`"],
        "runsExpanded": {},
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "chartsSearchFilter": "",
        "searchFilter": "",
        # Not by start_time, for which MLflow folds the runs of a sweep away below their parent.
        "orderByKey": "attributes.end_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _section(number: int) -> str:
    return f"fedx-charts-{number}"


def _line(metric: str, against: str = "") -> dict[str, Any]:
    """Draw a metric by round, or against another metric of the same rounds."""
    return {
        **_tile("LINE"),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "metric" if against else "step",
        "selectedXAxisMetricKey": against,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "range": {},
        "displayPoints": True,
    }


def _scatter(metric: str, against: str) -> dict[str, Any]:
    """Draw last values, a point a run."""
    return {
        **_tile("SCATTER"),
        "xaxis": {"key": against, "type": "METRIC"},
        "yaxis": {"key": metric, "type": "METRIC"},
    }


def _tile(kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
    }
