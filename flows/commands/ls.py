"""``fedx ls``: the runs that are here."""

import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, RunRoot

STATES = {"absent": "no round yet"}


def ls(run_root: RunRoot = "runs", as_json: JsonObject = False) -> None:
    """List the runs in the run folder, the newest first.

    A run is going, finished, or stopped before its last round; `fedx resume` goes on with a
    stopped one.

        fedx ls
        fedx ls --run-root /data/runs
    """
    from flows.watching import listing

    rows = listing.rows(Path(run_root))
    if as_json:
        print(strict_json.dumps({"runs": rows}))
        return
    if not rows:
        print(f"no runs in {run_root} yet; start one with `fedx run`", file=sys.stderr)
        return
    _show(rows)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from flows.base import tables
    from flows.base.tables import Column
    from flows.commands.compare import WIDE

    columns = [
        Column("run", "run"),
        Column("state", "state"),
        Column("method", "method"),
        Column("dataset", "data set"),
        Column("done", "rounds", "{}".format),
        Column("score", "score", lambda share: f"{100 * share:.1f} %"),
        Column("mib", "MiB", "{:.2f}".format),
        Column("started", "started", lambda when: f"{datetime.fromisoformat(when):%Y-%m-%d %H:%M}"),
    ]
    shown = [
        {**row, "state": STATES.get(row["state"], row["state"]), "done": _done(row)} for row in rows
    ]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    console = Console(highlight=False, width=width)
    for number, part in enumerate(tables.fitting(columns, shown, width)):
        if number:
            console.print()
        console.print(tables.drawn(part, shown))


def _done(row: dict[str, Any]) -> str | None:
    return None if row["rounds"] is None else f"{row['rounds']}/{row['rounds_planned']}"
