"""``fedx reproduce``: the paper's figures and tables, computed anew."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedx_core.base import strict_json
from flows.base.exits import FAILED
from flows.commands.options import (
    DataRoot,
    JsonObject,
    Params,
    RunRoot,
    Settings,
    Store,
    TrackWith,
    setting,
)
from flows.commands.sweep import carried_out
from flows.settings import completion
from flows.settings.choices import Track

if TYPE_CHECKING:
    from flows.reproduce.figures import Figure
    from flows.sweeps.sweep import Places

What = Literal["fig2", "fig3", "fig4", "fig5", "table1", "table2"]


def reproduce(
    what: Annotated[What, typer.Argument(help="A figure or a table of the paper.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write files there; figures go to reproduced/ if not given."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A key of datasets in params.yaml; the paper's if not given.",
            autocompletion=completion.offering(completion.data_sets),
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds of each run; 20 as in the paper if not given."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Seeds of each setting, for means with intervals; 1 if not given."
        ),
    ] = None,
    settings: Settings = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Two rounds of a few images at two rates, and say so."),
    ] = False,
    draw_only: Annotated[
        bool, typer.Option("--draw-only", help="Run nothing; draw from the runs that are finished.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Runs at once, each a process.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Clients at once in each run.")] = 1,
    params: Params = None,
    run_root: RunRoot = "runs",
    data_root: DataRoot = None,
    store: Store = None,
    track: TrackWith = "mlflow",
    as_json: JsonObject = False,
) -> None:
    """Reproduce a figure of the paper by a sweep, or compute a table and show both.

    A figure's runs are those of a grid that is shipped; stopped or killed, start it again. What is
    finished is left, also by other figures that have the same runs. A list of values in --set is
    tried value by value.

        fedx reproduce table2
        fedx reproduce fig2 --dry-run
        fedx reproduce fig4 --dataset eurosat --set "model.name=[resnet6, resnet18]" --seeds 3
        fedx reproduce fig5 --draw-only
    """
    if what in ("table1", "table2"):
        _table(what, out, as_json=as_json)
        return
    from flows.reproduce import figures
    from flows.reproduce.scale import Scale
    from flows.sweeps import sweep

    scale = Scale(
        dataset=dataset,
        rounds=rounds,
        seeds=seeds,
        overrides=dict(setting(text) for text in settings or []),
        dry=dry_run,
    )
    folder = out or Path("reproduced") / (f"{what}-dry" if dry_run else what)
    figure = figures.planned(what, scale, Path(params or "params.yaml"), folder)
    places = sweep.Places(run_root=Path(run_root), data_root=Path(data_root or "data"), store=store)
    failed = 0 if draw_only else _run(figure, places, jobs, workers, track)
    files = [*figures.draw(figure, Path(run_root)), figure.path.name]
    if as_json:
        print(strict_json.dumps({"figure": what, "files": [str(folder / name) for name in files]}))
    else:
        print(folder)
    if failed:
        raise typer.Exit(FAILED)


def _run(figure: "Figure", places: "Places", jobs: int, workers: int, track: Track) -> int:
    """Carry the figure's runs out; returns how many failed."""
    import dataclasses

    from flows.reproduce import figures
    from flows.sweeps import sweep

    if figure.scale.dry:
        root = figures.dry_data(figure, places.data_root)
        places = dataclasses.replace(places, data_root=root)
    found = sweep.jobs(figure.grid, places)
    launch = sweep.Processes(sweep=figure.grid.name, places=places, workers=workers, track=track)
    return carried_out(found, launch, jobs)[1]


def _table(what: str, out: Path | None, *, as_json: bool) -> None:
    from flows.report import drawn
    from flows.reproduce import table1, table2

    if what == "table1":
        text, described = table1.show(as_json), table1.table
    else:
        rows = table2.rows()
        text, described = table2.show(rows, as_json), lambda: table2.table(rows)
    print(text)
    if out is not None:
        drawn.save_table(described(), out)
