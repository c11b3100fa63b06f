"""One run's copy at one MLflow: find it or make it, send what it lacks, close it.

Nothing is sent twice. The copy is found by the run's own id, which a tag carries from the moment
the copy is made; MLflow is asked which steps it has; and points carry times that follow from the
record, so that a database refuses one that came in spite of that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal

from flows.runs import monitor, probe
from flows.runs.record import Record
from flows.tracking import charts, content, places
from flows.tracking.describing import describe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "fedx"
ID = "fedx.id"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_METRICS_AT_ONCE = 1000


@dataclass(kw_only=True)
class Sent:
    """What one visit has added.

    Args:
        rounds: number of rounds.
        samples: of the machine.
        probes: numbers of ``fedx probe``.
        files: uploaded.
        version: the last that was made of the registered model; 0 for none.
    """

    rounds: int = 0
    samples: int = 0
    probes: int = 0
    files: int = 0
    version: int = 0


@dataclass(kw_only=True)
class Copy:
    """A copy, and what of the run it holds.

    Args:
        client: of the tracking server or database.
        uri: of the same.
        experiment_id: at it.
        run_id: of MLflow's run.
        artifact_uri: where its files are.
        tags: it has.
        status: it has.
        rounds: it has.
        samples: it has, from the first.
        scores: that the experiment's charts show.
    """

    client: "MlflowClient"
    uri: str
    experiment_id: str
    run_id: str
    artifact_uri: str
    tags: dict[str, str]
    status: str
    rounds: set[int] = field(default_factory=set)
    samples: int = 0
    scores: frozenset[str] = frozenset()

    @property
    def page(self) -> str:
        """Address of the run's page."""
        at = f"/experiments/{self.experiment_id}/runs/{self.run_id}?{charts.TRAINING}"
        return f"{places.ui_of(self.uri)}/#{at}"

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set the tags that differ."""
        from mlflow.entities import RunTag

        changed = {name: value for name, value in tags.items() if self.tags.get(name) != value}
        if changed:
            entities = [RunTag(name, value) for name, value in changed.items()]
            self.client.log_batch(self.run_id, tags=entities, synchronous=True)
            self.tags |= changed


def open_copy(uri: str, record: Record) -> Copy:
    """Find a run's copy, or make it, and describe the run there.

    Args:
        uri: of a tracking server or database.
        record: its notes say ``id`` and ``began``; it may have no rounds yet.
    """
    client = places.connect(uri)
    experiment_id = experiment(client, uri)
    run, is_new = _run(client, experiment_id, record)
    copy = Copy(
        client=client,
        uri=uri,
        experiment_id=experiment_id,
        run_id=run.info.run_id,
        artifact_uri=run.info.artifact_uri,
        tags=dict(run.data.tags),
        status=run.info.status,
    )
    if not is_new:
        history = client.get_metric_history
        copy.rounds = {m.step for m in history(copy.run_id, content.LAST_OF_ROUND)}
        machine = (m.step for m in history(copy.run_id, content.LAST_OF_SAMPLE))
        copy.samples = max(machine, default=-1) + 1
    copy.scores = charts.prepare(client, experiment_id, ())
    describe(copy, run, record)
    return copy


def send(copy: Copy, record: Record) -> Sent:
    """Send the rounds, the samples and the probes that a copy lacks."""
    began = datetime.fromisoformat(record.notes["began"])
    there = {report.round_index for report in record.reports}
    machine = monitor.samples(record.folder.system, copy.samples)
    sent = Sent(rounds=len(there - copy.rounds), samples=len(machine))
    _log(copy, content.round_points(record.reports, began, copy.rounds))
    copy.rounds |= there
    _log(copy, content.sample_points(machine))
    copy.samples = max((sample.index + 1 for sample in machine), default=copy.samples)
    if probes := probe.read(record.folder):
        latest = copy.client.get_run(copy.run_id).data.metrics
        points = list(content.probe_points(probes, record.reports, began, latest))
        _log(copy, points)
        sent.probes = len(points)
    if record.reports and not copy.scores >= charts.scores_of(record.reports[-1]):
        scores = charts.scores_of(record.reports[-1])
        copy.scores = charts.prepare(copy.client, copy.experiment_id, scores)
    return sent


def say_status(copy: Copy, record: Record, status: Status) -> None:
    """Tell MLflow that the run goes on, or how it ended."""
    if status == copy.status:
        return
    if status == "RUNNING":
        copy.client.update_run(copy.run_id, status=status)
    else:
        ended = record.notes.get("ended")
        at = _milliseconds(datetime.fromisoformat(ended)) if ended else None
        copy.client.set_terminated(copy.run_id, status, at)
    copy.status = status


def experiment(client: "MlflowClient", uri: str) -> str:
    """Find FedX's experiment, or make it, and return its id."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT, places.artifact_location(uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(EXPERIMENT)  # another run was quicker
            assert found is not None
    return str(found.experiment_id)


def _run(client: "MlflowClient", experiment_id: str, record: Record) -> tuple["Run", bool]:
    name = record.notes["id"]
    found = client.search_runs([experiment_id], f"tags.`{ID}` = '{name}'", max_results=1)
    if found:
        return found[0], False
    began = _milliseconds(datetime.fromisoformat(record.notes["began"]))
    return client.create_run(
        experiment_id, start_time=began, tags={ID: name}, run_name=record.name
    ), True


def _log(copy: Copy, points: Iterable[content.Point]) -> None:
    """Send points in their order, many at once."""
    from mlflow.entities import Metric

    rest = iter(points)
    while some := list(islice(rest, _METRICS_AT_ONCE)):
        metrics = [Metric(*point) for point in some]
        copy.client.log_batch(copy.run_id, metrics=metrics, synchronous=True)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
