"""What the runs were set to, where they come from, and how to repeat them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fedx_core.base import strict_json
from flows.comparing import compare
from flows.report.gather import Run
from flows.report.parts import Cell, Column, Section, Table
from flows.runs import provenance

AGAIN = "to repeat it"


def sections(runs: Sequence[Run]) -> list[Section]:
    """Write the sections about settings and provenance."""
    settings = [_shown(compare.in_effect(run.record.settings)) for run in runs]
    paths = list(dict.fromkeys(path for one in settings for path in one))
    columns = [Column("setting"), *(Column(run.name) for run in runs)]
    rows: list[list[Cell]] = [[path, *(one.get(path) for one in settings)] for path in paths]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    tables = [Table("settings", "All settings in effect", columns, rows)]
    if differing:
        differences = Table(
            "differences", "Settings that differ", columns, differing, stays_open=True
        )
        tables.insert(0, differences)
    text = "The runs have the same settings." if len(runs) > 1 and not differing else ""
    return [
        Section("settings", "Settings", text, tables=tables),
        Section("provenance", "Provenance", tables=[_provenance(runs)]),
    ]


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else strict_json.dumps(value)
            for name, value in values.items()}  # fmt: skip


def _provenance(runs: Sequence[Run]) -> Table:
    found = [_origin(run) for run in runs]
    names = [*dict.fromkeys(name for one in found for name in one if name != AGAIN), AGAIN]
    return Table(
        name="provenance",
        title="Where the runs come from",
        columns=[Column(""), *(Column(run.name) for run in runs)],
        rows=[[name, *(one.get(name) or None for one in found)] for name in names],
        note="Digests name the data's content. The last line repeats a run to the same bytes, on "
        "one machine with the same packages.",
        stays_open=True,
    )


def _origin(run: Run) -> dict[str, str]:
    notes = {"data": provenance.of_data(run.data), **run.record.notes}
    found = {
        name.replace("_", " "): _without_password(value)
        for name, value in _shown(_flat(notes)).items()
        if name != "run"
    }
    return {
        "rounds": f"{len(run.reports)} of {run.reports[-1].rounds}",
        "seed": str(run.record.settings.seed),
        **found,
        AGAIN: _command(run),
    }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Name nested notes by what they are in, from outside to inside."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        name: inner
        for key, item in value.items()
        for name, inner in _flat(item, f"{path} {key}".strip()).items()
    }


def _command(run: Run) -> str:
    words = ["fedx", "run", "--params", str(run.record.folder.config), "--run", f"{run.name}-again"]
    if root := run.record.notes.get("data_root"):
        words += ["--data-root", str(root)]
    if branch := run.record.notes.get("branched_from"):
        store, _, round_index = str(branch).rpartition("@")
        words += ["--branch-from", f"{_run_of(store)}@{round_index}"]
    return shlex.join(words)


def _run_of(store: str) -> str:
    """Guess the run's name from where its store is: RUN/store, or a part of a shared one."""
    parts = store.rstrip("/").split("/")
    return parts[-2] if parts[-1] == "store" and len(parts) > 1 else parts[-1]


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://", text)
