"""``fedx watch``: a run that goes on elsewhere."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import RunRoot
from flows.settings import completion

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flows.watching.watch import Seen, State


def watch(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Name of the run, or path of its folder; if not given, the one that did something "
            "last.",
            autocompletion=completion.runs,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Seconds to wait for a run that has not begun or has stopped.",
        ),
    ] = 60,
    run_root: RunRoot = "runs",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object per round on stdout, and a last one."),
    ] = False,
) -> None:
    """Follow a run in another terminal, on a Prefect worker or in a service.

    Ends with the run: with exit code 0 when it is finished, with 3 when it stopped before its last
    round. Ctrl-C ends the watching only. The run's folder is all that is read.

        fedx watch
        fedx watch base --timeout 600
    """
    from flows.watching import watch as watching

    root = Path(run_root)
    looks = watching.follow(
        (lambda: watching.named(root, run)) if run else (lambda: watching.newest(root)),
        what=f"run {run!r} in {root}" if run else f"a run in {root}",
        patience=timeout,
        waiting=(lambda state: None) if as_json else (lambda state: _wait(state, run, root)),
    )
    if as_json:
        _print_json(looks)
    elif sys.stdout.isatty():
        _draw(looks)
    else:
        _print_lines(looks)


def _wait(state: "State", run: str | None, root: Path) -> None:
    what = f"run {run!r} in {root}" if run else f"a run in {root}"
    ends = "to go on" if state == "stopped" else "to begin"
    print(f"waiting for {what} {ends}; Ctrl-C ends", file=sys.stderr, flush=True)


def _print_json(looks: Iterator["Seen"]) -> None:
    from flows.runs.rows import rows

    done = 0
    for seen in looks:
        for row in rows(seen.reports)[done:]:
            print(strict_json.dumps({"event": "round", **row}), flush=True)
        done = len(seen.reports)
        if seen.state == "finished":
            print(strict_json.dumps({"event": "summary", **(seen.summary or {})}), flush=True)


def _print_lines(looks: Iterator["Seen"]) -> None:
    from flows.watching import watching_table as table

    done = 0
    for seen in looks:
        if not done and seen.reports:
            print(table.title(seen))
        for line in table.lines(seen.reports, done):
            print(line, flush=True)
        done = len(seen.reports)
        if seen.state == "finished":
            print(table.end(seen), flush=True)


def _draw(looks: Iterator["Seen"]) -> None:
    """Let rounds go by, and keep below them what goes on."""
    from rich.console import Console
    from rich.live import Live

    from flows.watching import watching_table as table

    console = Console(highlight=False)
    done, linked = 0, False
    with Live(console=console, transient=True, refresh_per_second=2) as live:
        for seen in looks:
            if not linked and (page := seen.folder.notes().get("prefect_page")):
                linked = True
                console.print(f"in Prefect: {page}", markup=False, soft_wrap=True)
            if not done and seen.reports:
                console.print(table.title(seen), style="bold", markup=False)
            for line in table.lines(seen.reports, done):
                console.print(line, markup=False)
            done = len(seen.reports)
            if seen.state == "finished":
                live.update("")
                console.print(table.end(seen), markup=False)
            else:
                live.update(_below(seen))


def _below(seen: "Seen") -> "RenderableType":
    from flows.runs import under_way
    from flows.watching import watching_table as table

    words = table.step(seen, time.time())
    return under_way.drawn(seen.folder.name, len(seen.reports), seen.rounds, words)
