"""``fedx log``: what a run had to say."""

import time
from collections import deque
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import RunRoot
from flows.settings import completion

if TYPE_CHECKING:
    from flows.runs.run_folder import RunFolder

LOOK_SECONDS = 0.5


def log(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=completion.runs)
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until the run ends.")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Last lines only; all if not given.")
    ] = None,
    run_root: RunRoot = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Print a run's log: its rounds, lost clients, warnings and how it ended, with times.

    Each start and resumption of the run adds to it.

        fedx log base -n 20
        fedx log base -f
    """
    from pathlib import Path

    from fedx_core.base.errors import RunError
    from flows.runs import run_folder

    folder = run_folder.find(Path(run_root), run)
    try:
        file = folder.log.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(
            f"run {run!r} has no log that can be read ({error.strerror}); `fedx watch {run}` shows "
            "its rounds"
        ) from error
    with file:
        for line in _lines(file, lines, folder if follow else None):
            when, _, said = line.partition("  ")
            print(strict_json.dumps({"time": when, "said": said}) if as_json else line, flush=True)


def _lines(file: IO[str], last: int | None, going: "RunFolder | None") -> Iterator[str]:
    """Read lines; of a run that goes on also those to come."""
    from flows.watching import watch

    there = file.read()
    whole, newline, rest = there.rpartition("\n")
    yield from deque(whole.splitlines() if newline else (), maxlen=last)
    while going is not None:
        # Asked before the file is read: what a run writes last is there by then.
        goes_on = watch.look(going).state == "going"
        whole, newline, rest = (rest + file.read()).rpartition("\n")
        yield from whole.splitlines() if newline else ()
        if not goes_on:
            return
        time.sleep(LOOK_SECONDS)
