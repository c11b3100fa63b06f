"""Experiment tracking: a consumer of round reports, and the only file that knows MLflow.

``results/rounds.json`` is the record; tracking is a copy of it for looking at. So a tracking server
that is away costs a warning, never a run: what it missed is sent when it is back, at the end of the
run or on ``fedx resume``, and never twice.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fedx_core import config
from fedx_core.config import ExperimentConfig
from fedx_core.messages import RoundReport
from flows.choices import Track
from flows.results import MIB
from flows.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "fedx"
LOCAL = "sqlite:///mlflow.db"


class Tracker(Protocol):
    """Is told of a run; returns nothing that changes it."""

    def began(self, folder: RunFolder, settings: ExperimentConfig, tags: Mapping[str, str]) -> None:
        """Open the run, or open it again."""

    def logged(self, reports: Sequence[RoundReport]) -> None:
        """Take all rounds so far; only the new ones are sent."""

    def ended(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Close the run; a finished one leaves its files too."""


class NoTracker:
    """Keeps nothing."""

    def began(self, folder: RunFolder, settings: ExperimentConfig, tags: Mapping[str, str]) -> None:
        """Ignore it."""

    def logged(self, reports: Sequence[RoundReport]) -> None:
        """Ignore them."""

    def ended(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Ignore it."""


@dataclass
class MlflowTracker:
    """Keeps parameters, both ledgers by round, and the final model in MLflow.

    Args:
        uri: of the tracking server or database.
        warn: takes one line for people.
    """

    uri: str
    warn: Callable[[str], None]
    _client: "MlflowClient | None" = None
    _run_id: str = ""
    _folder: RunFolder | None = None
    _settings: ExperimentConfig | None = None
    _tags: Mapping[str, str] = field(default_factory=dict)
    _reports: Sequence[RoundReport] = ()
    _sent: int = 0
    _broken: bool = False

    def began(self, folder: RunFolder, settings: ExperimentConfig, tags: Mapping[str, str]) -> None:
        """Create a run in MLflow, or find the one that the folder names."""
        self._folder, self._settings, self._tags = folder, settings, tags
        self._attempt(self._open)

    def logged(self, reports: Sequence[RoundReport]) -> None:
        """Send the rounds that MLflow does not have yet."""
        self._reports = list(reports)
        if not self._broken:
            self._attempt(self._send)

    def ended(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Send what is missing, add the files of a finished run, and close it."""

        def close() -> None:
            if self._client is None:
                self._open()
            self._send()
            assert self._client is not None
            assert self._folder is not None
            if status == "FINISHED":
                results = self._folder.results
                for path in (
                    self._folder.config, self._folder.model,
                    results / "rounds.csv", results / "summary.json",
                ):  # fmt: skip
                    if path.exists():
                        self._client.log_artifact(self._run_id, str(path))
            self._client.set_terminated(self._run_id, status)

        self._attempt(close)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever tracking meets, the run matters more
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not self._broken:
                self.warn(
                    f"MLflow at {self.uri} does not answer ({said}); the run goes on, and its "
                    "numbers are in results/rounds.json"
                )
            self._broken = True

    def _open(self) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        assert self._folder is not None
        assert self._settings is not None
        client = MlflowClient(tracking_uri=self.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            at = Path("mlruns").absolute().as_uri() if self.uri.startswith("sqlite:") else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=at)
        else:
            experiment_id = experiment.experiment_id
        known = self._folder.notes().get("mlflow_run", "")
        try:
            run = client.get_run(known) if known else None
        except MlflowException:
            run = None  # another tracking server, or somebody deleted it
        if run is None:
            run = client.create_run(experiment_id, run_name=self._folder.name)
            self._folder.note({"mlflow_run": run.info.run_id, "mlflow_uri": self.uri})
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        self._run_id = run.info.run_id
        history = client.get_metric_history(self._run_id, "sparsity")
        self._sent = max((metric.step for metric in history), default=0)
        self._describe(client, set(run.data.params))
        self._client = client

    def _describe(self, client: "MlflowClient", present: set[str]) -> None:
        from mlflow.entities import Param, RunTag

        assert self._folder is not None
        assert self._settings is not None
        parameters = [
            Param(name, str(value))
            for name, value in flat_parameters(self._settings).items()
            if name not in present
        ]
        tags = {"fedx.run": self._folder.name, **self._tags}
        client.log_batch(
            self._run_id, params=parameters, tags=[RunTag(k, v) for k, v in tags.items() if v]
        )

    def _send(self) -> None:
        from mlflow.entities import Metric

        if self._client is None:
            self._open()
        assert self._client is not None
        wire = paper = 0
        for report in self._reports:
            wire += report.wire_bytes
            paper += report.paper_bytes
            if report.round_index <= self._sent:
                continue
            numbers = round_metrics(report)
            numbers["wire/cumulative_mib"] = wire / MIB
            numbers["paper/cumulative_mib"] = paper / MIB
            # One batch a round: MLflow holds either all of its numbers or none.
            self._client.log_batch(
                self._run_id,
                metrics=[Metric(k, v, 0, report.round_index) for k, v in numbers.items()],
            )
            self._sent = report.round_index


def tracker(track: Track, warn: Callable[[str], None]) -> Tracker:
    """Open a tracker.

    Args:
        track: ``mlflow`` uses MLFLOW_TRACKING_URI, or ``mlflow.db`` in this folder.
        warn: takes one line for people.
    """
    if track == "nothing":
        return NoTracker()
    # Without these a tracking server that is away would hold up a run for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    return MlflowTracker(os.environ.get("MLFLOW_TRACKING_URI") or LOCAL, warn)


def flat_parameters(settings: ExperimentConfig) -> dict[str, Any]:
    """Return the settings by dotted path, such as ``method.pruning_rate``; one data set only."""
    values = config.as_plain(settings)
    values["data"] = values.pop("datasets")[settings.dataset]
    values.pop("prepare")
    flat: dict[str, Any] = {}

    def walk(block: Mapping[str, Any], prefix: str) -> None:
        for key, value in block.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = value

    walk(values, "")
    return flat


def round_metrics(report: RoundReport) -> dict[str, float]:
    """Return one round's numbers by MLflow's names; the two ledgers stand apart."""
    numbers = {
        **{f"test/{name}": value for name, value in report.metrics.items()},
        **{f"before_pruning/{n}": value for n, value in report.metrics_before_pruning.items()},
        "train/loss": report.train_loss,
        "sparsity": report.sparsity,
        "clients/failed": len(report.failures),
        "wire/downlink_bytes": report.downlink_bytes,
        "wire/uplink_bytes": report.uplink_bytes,
        "wire/mask_bytes": report.mask_bytes,
        "wire/retry_bytes": report.retry_bytes,
        "wire/total_bytes": report.wire_bytes,
        "wire/evaluation_bytes": report.evaluation_bytes,
        "paper/bytes": report.paper_bytes,
        **{f"seconds/{step}": value for step, value in report.seconds.items()},
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
