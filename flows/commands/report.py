"""``fedx report``: runs on one page."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, RunRoot
from flows.settings import completion


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Names, or folders with a slash in them.",
            autocompletion=completion.runs,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write. [default: report in the run's folder, or here for several runs]",
        ),
    ] = None,
    heat_maps: Annotated[
        int, typer.Option(min=0, max=100, metavar="N", help="Images to explain, a run.")
    ] = 4,
    at_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SCORE",
            help="Count MiB until a test score was first this or better, as 0.75; what all runs "
            "reached if not given.",
        ),
    ] = None,
    run_root: RunRoot = "runs",
    as_json: JsonObject = False,
) -> None:
    """Write one page about one or several runs, with its figures and tables as files beside it.

    The page needs no network: report.html can be sent as it is. Figures are also SVG and PNG,
    tables CSV and LaTeX.

        fedx report base
        fedx report base fedx-lrp-q0.5-synthetic-s1 --out compared
        fedx report base --heat-maps 10 --at-accuracy 0.8
    """
    from flows.report.files import write_report
    from flows.report.gather import gather

    found = gather(Path(run_root), runs)
    alone = found[0].record.folder.path / "report" if len(found) == 1 else Path("report")
    written = write_report(found, out or alone, heat_maps=heat_maps, accuracy=at_accuracy)
    if as_json:
        print(
            strict_json.dumps(
                {
                    "page": str(written.page),
                    "files": written.files,
                    "runs": written.headline,
                    "missing": written.missing,
                }
            )
        )
        return
    for line in written.missing:
        print(f"not shown: {line}", file=sys.stderr)
    print(written.page)
