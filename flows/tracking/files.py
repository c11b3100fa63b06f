"""A run's files in its copy, and its models in the registry."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fedx_core.base import strict_json
from flows.runs import now
from flows.runs.record import Record
from flows.tracking import content, registry
from flows.tracking.copying import Copy

TABLE = "clients_by_round.json"


def send_files(copy: Copy, record: Record) -> int:
    """Upload the run's files if any has changed since; returns how many were sent."""
    files = dict(_files(record))
    table = content.client_table(record.reports)
    digest = hashlib.sha256(table.encode())
    for path, place in files.items():
        digest.update(f"{place}/{path.name}:{_sha256(path)};".encode())
    name = digest.hexdigest()
    if copy.tags.get("fedx.files") == name:
        return 0
    for path, place in files.items():
        copy.client.log_artifact(copy.run_id, str(path), place or None)
    copy.client.log_text(copy.run_id, table, TABLE)
    shown = strict_json.dumps([{"path": TABLE, "type": "table"}])
    # The tag comes last: until all files are there, the next visit sends them again.
    copy.tag({"mlflow.loggedArtifacts": shown, "fedx.files": name})
    return len(files) + 1


def register(copy: Copy, record: Record) -> int:
    """Make the run's models versions of its registered model, unless they are.

    Returns:
        The number of the last version that was made; 0 for none.
    """
    last, number = record.reports[-1], 0
    models = {record.folder.model: last.round_index, record.folder.best: last.best_round}
    for path, round_index in models.items():
        if not path.exists() or not round_index:
            continue
        version = registry.version_of(record, round_index, _sha256(path))
        if registry.is_registered(copy.client, copy.run_id, version):
            continue
        for file in (path, record.folder.config):
            copy.client.log_artifact(copy.run_id, str(file), version.place)
        source = f"{copy.artifact_uri.rstrip('/')}/{version.place}"
        number = registry.register(copy.client, copy.run_id, source, version)
    return number


def _files(record: Record) -> Iterator[tuple[Path, str]]:
    """Return the files to upload, each with the folder it goes to."""
    folder = record.folder
    if folder.config.exists():
        yield folder.config, ""
    for path in sorted(folder.results.rglob("*")):
        inside = path.relative_to(folder.results)
        passing = path == now.path(folder) or any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not passing:
            yield path, str(Path("results") / inside.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
