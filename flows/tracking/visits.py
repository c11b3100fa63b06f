"""One visit to MLflow: look what a run's copy lacks, and send it; for runs and ``fedx sync``."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from fedx_core.base.locks import exclusive
from flows.runs.record import Record
from flows.runs.run_folder import RunFolder
from flows.tracking import charts, copying, files, places
from flows.tracking.copying import Copy, Sent, Status


@contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """Let one process or thread at a time send this run."""
    with exclusive(folder.path / ".mlflow.lock"):
        yield


def introduce(folder: RunFolder, notes: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """Note what every copy of a run goes by, and where one is meant to be.

    Args:
        folder: of the run.
        notes: to add; ``id`` and ``began`` stay as they are where they are known.
        uri: of an MLflow that shall have a copy.

    Returns:
        All that ``run.yaml`` says then.
    """
    known = folder.notes()
    place = places.public(uri)
    copies = known.get("mlflow", {})
    folder.note(
        {
            "id": known.get("id") or uuid.uuid4().hex,
            "began": known.get("began") or now(),
            **notes,
            "mlflow": {**copies, place: copies.get(place, {})},
        }
    )
    return folder.notes()


def visit(
    uri: str, record: Record, status: Status | None, copy: Copy | None = None
) -> tuple[Copy, Sent]:
    """Bring a copy up to date; nothing is sent that is there.

    Args:
        uri: of a tracking server or database.
        record: the run; :func:`introduce` has noted it.
        status: of the run; None leaves MLflow's as it is, and files where they are.
        copy: as the last visit has left it; None looks for it.

    Returns:
        The copy, for the next visit, and what was added.
    """
    if copy is None:
        copy = copying.open_copy(uri, record)
        _note(record.folder, copy)
    if status == "RUNNING":
        copying.say_status(copy, record, status)
    sent = copying.send(copy, record)
    if status not in (None, "RUNNING"):
        sent.files = files.send_files(copy, record)
    if status == "FINISHED":
        sent.version = files.register(copy, record)
    if status not in (None, "RUNNING"):
        copying.say_status(copy, record, status)
    return copy, sent


def now() -> str:
    """Return the time, to the millisecond, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _note(folder: RunFolder, copy: Copy) -> None:
    known = folder.notes().get("mlflow", {})
    place = places.public(copy.uri)
    about = {
        "run": copy.run_id,
        "page": copy.page,
        "charts": charts.chart_url(copy.uri, copy.experiment_id),
    }
    if known.get(place) != about:
        folder.note({"mlflow": {**known, place: about}})
