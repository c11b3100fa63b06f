"""``fedx compare``: runs side by side."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedx_core.base import strict_json
from flows.commands import answers, over_seeds
from flows.commands.options import JsonObject, Params, RunRoot
from flows.settings import completion

if TYPE_CHECKING:
    from flows.base.tables import Column
    from flows.comparing.points import Point
    from flows.report.parts import Table
    from flows.runs.record import Record
    from flows.sweeps.grid import Grid

WIDE = 10_000


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Names of runs, or paths of their folders. [default: all in the run folder]",
            autocompletion=completion.runs,
        ),
    ] = None,
    at_accuracy: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            metavar="SCORE",
            help="Show MiB on the wire and rounds until the test score first reached this value, "
            "such as 0.75, with the bytes of that round. May be repeated.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Score of the test images, such as macro_f1 or loss; if not given, accuracy, or "
            "mAP where images have several labels."
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the runs of a sweep over their seeds: means, and paired differences.",
        ),
    ] = None,
    params: Params = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Write the table to this file as well.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Draw scores against pruning rate, parameters left and MiB, as means over seeds.",
        ),
    ] = None,
    by_client: Annotated[
        bool,
        typer.Option(
            "--by-client",
            help="Show scores of each client's own test images as well, and how many they are.",
        ),
    ] = False,
    by_bytes: Annotated[
        bool,
        typer.Option(
            "--bytes",
            help="Show the front as well: settings, as means over seeds, that no other one "
            "beats in both score and bytes.",
        ),
    ] = False,
    run_root: RunRoot = "runs",
    as_json: JsonObject = False,
) -> None:
    """Compare runs in a table: scores, bytes, rounds and time, the best of each column marked.

    Nothing is marked where runs have different test images, since their scores can't be compared.

    "at N MiB" is each run's score when it had sent no more than the run that sent fewest bytes in
    all. "best" is the round that the tuning images chose, or else the best test score. MiB are
    bytes on the wire of all clients in both directions; the total includes masks and retries.
    Ratios say how many times fewer than those of FedAvg in float32, over the same rounds.

        fedx compare
        fedx compare base pruned --at-accuracy 0.7 --at-accuracy 0.75
        fedx compare --bytes
        fedx compare --metric macro_f1 --csv runs.csv
        fedx compare --grid grid.yaml --figures figures
    """  # fmt: skip
    from flows.comparing import compare as comparing
    from flows.runs.record import find

    sweep = _sweep(grid, params, runs)
    if sweep is not None:
        runs = over_seeds.there(sweep, Path(run_root))
    records = find(Path(run_root), runs) if runs else _all(Path(run_root))
    targets = tuple(dict.fromkeys(at_accuracy or ()))
    rows = comparing.rows(records, metric, targets)
    chosen = metric or comparing.metric_of(records[0].reports)
    warnings = comparing.warnings(records, chosen)
    differing = comparing.differing(records)
    equal = comparing.equal_mib(records)
    averaged = over_seeds.rows(sweep, rows) if sweep is not None else {}
    if table is not None:
        answers.save(table, answers.as_csv(rows))
    drawn = _drawn(records, metric, figures)
    parted = _by_client(records) if by_client else []
    front = _front(records, chosen) if by_bytes else []
    if as_json:
        found = {"metric": chosen, "equal_mib": equal, "runs": rows, "differing": differing}
        clients = {"by_client": {part.name: part.as_rows() for part in parted}}
        extra = {**averaged, **drawn, **(clients if by_client else {})}
        if by_bytes:
            from flows.comparing import points

            extra["front"] = points.rows(front)
        print(strict_json.dumps({**found, "warnings": warnings, **extra}))
        return
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    columns = _columns(rows, chosen, targets, equal)
    if len(comparing.by_images(records)) > 1:
        columns = [replace(column, better=None) for column in columns]
    _show(rows, columns, differing)
    if averaged:
        over_seeds.show(averaged, chosen, _width())
    if front:
        _show_front(front, chosen)
    for part in parted:
        print(f"\n{part.title}:\n{part.as_text()}\n{part.note}".rstrip())
    if figures is not None:
        print(f"\n{figures}")


def _drawn(records: Sequence["Record"], metric: str | None, folder: Path | None) -> dict[str, Any]:
    """Write figures where somebody asked for them, and name them."""
    if folder is None:
        return {}
    from flows.report import drawn

    files = drawn.write_all(records, metric, folder)
    return {"figures": [str(folder / name) for name in files]}


def _by_client(records: Sequence["Record"]) -> list["Table"]:
    """Put scores by client into tables, one per data set; those without yet are left out."""
    from flows.report import gather, scores

    runs = [gather.read(record) for record in records]
    datasets = dict.fromkeys(run.record.settings.dataset for run in runs)
    found = (
        scores.by_client(name, [r for r in runs if r.record.settings.dataset == name])
        for name in datasets
    )
    return [table for table in found if table is not None]


def _sweep(path: Path | None, params: str | None, runs: list[str] | None) -> "Grid | None":
    if path is None:
        return None
    if runs:
        raise typer.BadParameter("--grid says which runs; leave their names out")
    from flows.sweeps import grid

    return grid.load(path, Path(params or "params.yaml"))


def _all(root: Path) -> list["Record"]:
    """Read the runs of a folder in alphabetical order, those left out that have no round yet."""
    from fedx_core.base.errors import RunError
    from flows.runs.record import read
    from flows.runs.run_folder import RunFolder

    folders = sorted(root.iterdir()) if root.is_dir() else []
    records = [read(RunFolder(p)) for p in folders if (p / "results" / "rounds.json").exists()]
    if not records:
        raise RunError(
            f"no run with a finished round in {root}; start one with `fedx run`, or look elsewhere "
            "with --run-root"
        )
    return records


def _columns(
    rows: Sequence[dict[str, Any]], metric: str, targets: Sequence[float], equal: float | None
) -> list["Column"]:
    from fedx_core.learning.evaluation import LOWER_IS_BETTER
    from flows.base.tables import Column
    from flows.runs.live import HEADLINES

    lower = metric in LOWER_IS_BETTER
    score = _score(metric)

    def mib(value: float) -> str:
        return f"{value:.2f}"

    def time(seconds: float) -> str:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

    better: Literal["more", "less"] = "less" if lower else "more"
    name = HEADLINES.get(metric, metric)
    judged = any(row["validation"] is not None for row in rows)
    found = [
        Column("run", "run"),
        *(Column(key, key) for key in ("dataset", "model") if len({row[key] for row in rows}) > 1),
        Column("method", "method"),
        Column("relevance", "relevance"),
        Column("pruning_rate", "q", "{:g}".format),
        Column("seed", "seed", "{:d}".format),
        Column("rounds_done", "rounds", "{}".format),
        Column("final", name, score, better),
        *([Column("validation", "validation", score, better)] if judged else []),
        Column("best", "best", score, better),
        Column("equal_bytes", f"at {equal or 0:.1f} MiB", score, better),
        Column("mib_down", "MiB down", mib, "less"),
        Column("mib_up", "MiB up", mib, "less"),
        Column("mib_total", "MiB total", mib, "less"),
        *(
            Column(f"ratio_{way}", f"ratio {way}", _times, "more")
            for way in ("down", "up", "total")
            if any(row[f"ratio_{way}"] is not None for row in rows)
        ),
        Column("mib_paper", "MiB paper", mib, "less"),
    ]
    for target in targets:
        said = f"{target:g}" if lower else f"{100 * target:g} %"
        found += [
            Column(f"mib_to_{target:g}", f"MiB to {said}", mib, "less"),
            Column(f"rounds_to_{target:g}", f"rounds to {said}", "{:d}".format, "less"),
        ]
    return [
        *found,
        Column("sparsity", "sparsity", lambda share: f"{100 * share:.1f} %"),
        Column("seconds", "time", time, "less"),
        Column("clients_lost", "lost", "{:d}".format),
    ]


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}" if ratio < 100 else f"{ratio:,.0f}"


def _front(records: Sequence["Record"], metric: str) -> list["Point"]:
    """Find the settings that no other one beats in both score and MiB, by data set."""
    from flows.comparing import compare as comparing
    from flows.comparing import points

    found = comparing.by_images(records)
    return [point for group in found for point in points.front(points.points(group, metric))]


def _show_front(front: Sequence["Point"], metric: str) -> None:
    from rich.console import Console

    from flows.base import tables
    from flows.base.tables import Column
    from flows.comparing.points import rows

    console = Console(highlight=False, width=_width())
    console.print("\nno other sends fewer bytes and scores as well, cheapest first:")
    found = rows(front)
    score = _score(metric)
    columns = [
        Column("series", "setting"),
        *([Column("dataset", "dataset")] if len({row["dataset"] for row in found}) > 1 else []),
        Column("rate", "removed", lambda share: f"{100 * share:.0f} %"),
        Column("score", metric, score),
        Column("low", "95 % from", score),
        Column("high", "to", score),
        Column("mib", "MiB total", "{:.2f}".format),
        Column("ratio", "ratio total", _times),
        Column("runs", "runs"),
    ]
    for part in tables.fitting(columns, found, console.width):
        console.print(tables.drawn(part, found))


def _score(metric: str) -> Callable[[float], str]:
    from fedx_core.learning.evaluation import LOWER_IS_BETTER

    return "{:.3f}".format if metric in LOWER_IS_BETTER else lambda value: f"{100 * value:.1f} %"


def _show(
    rows: Sequence[dict[str, Any]],
    columns: Sequence["Column"],
    differing: dict[str, dict[str, Any]],
) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from flows.base import tables

    console = Console(highlight=False, width=_width())
    shown = [{**row, "rounds_done": _rounds(row)} for row in rows]
    for number, part in enumerate(tables.fitting(columns, shown, console.width)):
        if number:
            console.print()
        console.print(tables.drawn(part, shown))
    if differing:
        console.print("\nsettings that differ:")
    for path, values in differing.items():
        runs_of: dict[str, list[str]] = {}
        for run, value in values.items():
            runs_of.setdefault(tables.NOTHING if value is None else str(value), []).append(run)
        console.print(f"  {path}")
        for value, runs in runs_of.items():
            said = Text(f"{value}: {', '.join(runs)}")
            console.print(Padding(said, (0, 0, 0, 4), expand=False))


def _width() -> int:
    # What goes into a file or a program is one table, however wide.
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def _rounds(row: dict[str, Any]) -> str:
    done, planned = row["rounds"], row["rounds_planned"]
    return f"{done}" if done >= planned else f"{done}/{planned}"
