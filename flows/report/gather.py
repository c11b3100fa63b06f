"""What there is to say of a run, read from its folder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedx_core.base.errors import ConfigError
from fedx_core.wire.messages import RoundReport, Traffic
from flows.comparing import compare
from flows.running import results
from flows.runs import record
from flows.runs.record import PruningEvent, Record


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a report says of one run is taken from this.

    Args:
        record: settings, rounds and notes.
        summary: what ``results/summary.json`` says, or will say of the rounds so far.
        events: pruning events; empty where the run has none or kept no traces.
        clients: see :func:`flows.runs.record.clients`.
    """

    record: Record
    summary: Mapping[str, Any]
    events: tuple[PruningEvent, ...]
    clients: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.record.name

    @property
    def reports(self) -> tuple[RoundReport, ...]:
        """Of its rounds."""
        return self.record.reports

    @property
    def metric(self) -> str:
        """Name of the metric that the paper reports for its kind of labels."""
        return compare.metric_of(self.reports)

    @property
    def data(self) -> Path:
        """Folder of its data set."""
        root = self.record.notes.get("data_root") or "data"
        return Path(root) / self.record.settings.dataset

    @property
    def traffic(self) -> dict[str, Traffic]:
        """Bytes by client over all rounds, clients in the order in which they first appear."""
        total: dict[str, Traffic] = {}
        for report in self.reports:
            for client, own in report.traffic.items():
                past = total.get(client, Traffic())
                total[client] = Traffic(
                    downlink=past.downlink + own.downlink,
                    uplink=past.uplink + own.uplink,
                    mask=past.mask + own.mask,
                    retry=past.retry + own.retry,
                    evaluation=past.evaluation + own.evaluation,
                )
        return total


def gather(root: Path, names: Iterable[str]) -> list[Run]:
    """Read some runs.

    Raises:
        RunError: a run is not there, has no round yet, or a file of it is damaged.
        ConfigError: two of them have one name, which a page can't tell apart.
    """
    records = record.find(root, names)
    seen: dict[str, Path] = {}
    for found in records:
        if found.name in seen:
            raise ConfigError(
                f"two runs are named {found.name!r}, {seen[found.name]} and {found.folder.path}; "
                "name each once; a copy gets a name of its own by `run` in its run.yaml"
            )
        seen[found.name] = found.folder.path
    return [read(found) for found in records]


def read(found: Record) -> Run:
    """Read what else there is of one run.

    Raises:
        RunError: a file of it is damaged.
    """
    return Run(
        record=found,
        summary=results.summary(found.settings, found.reports, {"run": found.name}),
        events=record.pruning_events(found.folder),
        clients=record.clients(found.folder),
    )
