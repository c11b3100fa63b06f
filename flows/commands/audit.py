"""``fedx audit``: read an audit log, export it, and check that no line is missing."""

from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject

Folder = Annotated[
    Path,
    typer.Argument(
        help="Of a site, a coordinator or a run: whatever holds an audit.jsonl.",
        envvar=["FEDX_SITE_HOME", "FEDX_COORDINATOR_HOME"],
    ),
]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Read an audit log of what was refused and approved, and check that no line is missing.",
)


@app.command()
def show(
    folder: Folder,
    last: Annotated[int, typer.Option(min=1, help="Lines to show.")] = 20,
    as_json: JsonObject = False,
) -> None:
    """Show the last lines of an audit log, one event per line.

    A line has the time (UTC), what happened, and the error's code if there was an error.

        fedx audit show site
    """
    from fedx_core.rounds import audit

    lines = list(audit.entries(_with_book(folder)))[-last:]
    if as_json:
        print(strict_json.dumps({"lines": lines}))
        return
    for said in lines:
        facts = {k: v for k, v in said.items() if k not in ("time", "event", "line", "previous")}
        told = "  ".join(f"{name}={value}" for name, value in facts.items())
        print(f"{said.get('time', '')}  {said.get('event', '')}  {told}")


@app.command()
def export(
    folder: Folder,
    since: Annotated[
        str, typer.Option(help="Only lines from then on, such as 2026-11-01 or with a time (UTC).")
    ] = "",
    event: Annotated[str, typer.Option(help="Only lines of this event, such as refused.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="The output is JSON in any case, one object per line.")
    ] = False,
) -> None:
    """Write an audit log as JSON lines on stdout, for a log system.

    The chain stands in the fields `line` and `previous`; a choice of lines can't be verified.

        fedx audit export sites --event refused > refused.jsonl
    """
    from fedx_core.rounds import audit

    for said in audit.entries(_with_book(folder)):
        if str(said.get("time", "")) >= since and event in ("", said.get("event")):
            print(strict_json.dumps(said))


@app.command()
def verify(
    folder: Folder,
    expect: Annotated[
        str,
        typer.Option(help="A last hash that was written down earlier; it must be in the chain."),
    ] = "",
    as_json: JsonObject = False,
) -> None:
    """Check whether a line of an audit log is missing, changed or out of place.

    Keep the last hash that it prints somewhere else: only with it can lines be missed that were cut
    off at the end. A fault ends in exit code 1.

        fedx audit verify sites --expect 5f0c…
    """
    from fedx_core.base.errors import SiteError
    from fedx_core.rounds import audit

    found = audit.verify(_with_book(folder), expect)
    if as_json:
        told = {"lines": found.lines, "chained": found.chained, "head": found.head}
        print(strict_json.dumps({**told, "faults": list(found.faults)}))
    else:
        print(f"{folder / audit.FILE}: {found.lines} lines, {found.chained} of them chained")
        print(f"last hash {found.head}")
    if found.faults:
        raise SiteError(
            f"{folder / audit.FILE} is not as it was written: {'; '.join(found.faults[:5])}; "
            "compare it with a copy"
        )


def _with_book(folder: Path) -> Path:
    """Return a folder that holds a book.

    Raises:
        SiteError: it holds none.
    """
    from fedx_core.base.errors import SiteError
    from fedx_core.rounds import audit

    if not (folder / audit.FILE).is_file():
        raise SiteError(
            f"no {audit.FILE} in {folder}; name the folder of a site, a coordinator or a run that "
            "has written one"
        )
    return folder
