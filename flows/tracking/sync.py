"""Send what runs have written down: to where their copies are or should be, or elsewhere."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from flows.runs import now, record
from flows.runs.record import Record
from flows.runs.run_folder import RunFolder
from flows.tracking import charts, places
from flows.tracking.copying import Sent, Status
from flows.tracking.visits import alone, first_line, introduce, visit


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of sending one run to one place.

    Args:
        run: its name.
        uri: of the place, without password.
        sent: what was added.
        page: address of the run's page there; empty after an error.
        charts: of the experiment.
        error: why the copy is not up to date; empty if it is.
    """

    run: str
    uri: str
    sent: Sent
    page: str = ""
    charts: str = ""
    error: str = ""


def sync(folder: RunFolder, to: str | None = None) -> Iterator[Outcome]:
    """Bring a run's copies up to date.

    Args:
        folder: of the run.
        to: a tracking URI; None takes those that ``run.yaml`` names, or the default one.

    Yields:
        One outcome a place.

    Raises:
        RunError: the run has no finished round, or its record is damaged.
    """
    found = record.read(folder)
    for uri in [places.absolute(to)] if to else _known(found):
        with alone(folder):
            yield _send(found, uri)


def status_of(found: Record) -> Status | None:
    """Say how a run ended; None if it has not, as far as its folder tells."""
    try:
        summary = json.loads((found.folder.results / "summary.json").read_bytes())
        if summary["rounds"] == found.reports[-1].round_index:
            return "FINISHED"
    except (OSError, ValueError, KeyError):
        pass
    doing = now.read(found.folder)
    if doing is not None:
        return None if doing.alive else "KILLED"
    said = found.notes.get("status")
    return said if said in ("FAILED", "KILLED") else None


def _send(found: Record, uri: str) -> Outcome:
    from mlflow.exceptions import MlflowException

    try:
        notes = introduce(found.folder, {}, uri)
        known = Record(
            folder=found.folder, settings=found.settings, reports=found.reports, notes=notes
        )
        copy, sent = visit(uri, known, status_of(known))
    except (MlflowException, OSError) as error:  # what requests raises is an OSError, too
        return Outcome(run=found.name, uri=places.public(uri), sent=Sent(), error=first_line(error))
    return Outcome(
        run=found.name,
        uri=places.public(uri),
        sent=sent,
        page=copy.page,
        charts=charts.chart_url(uri, copy.experiment_id),
    )


def _known(found: Record) -> list[str]:
    default = places.default()
    noted = list(found.notes.get("mlflow", {}))
    # Notes hold no passwords; the environment may.
    return [default if uri == places.public(default) else uri for uri in noted] or [default]
