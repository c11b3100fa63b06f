"""Runs of a figure's grid in, the figure in files out; what is missing is said in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedx_core.base.errors import DataError, RunError
from fedx_core.clients.client import Place
from fedx_core.rounds import start
from fedx_core.rounds.start import Setting
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from flows.report import drawn
from flows.report.parts import Column, Table
from flows.reproduce import printed
from flows.reproduce.scale import DRY_IMAGES, ROUNDS, Scale, scaled
from flows.runs import run_folder
from flows.runs.record import Record, find
from flows.settings import preset
from flows.sweeps import grid
from flows.sweeps.grid import Cell, Grid

NAMES = ("fig2", "fig3", "fig4", "fig5")
DRY_DATA = ".dry-run"
"""Below the folder of data sets, what dry runs prepare for themselves."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure to be reproduced.

    Args:
        name: such as ``fig2``.
        scale: how its grid was changed.
        grid: its runs.
        folder: of its files.
    """

    name: str
    scale: Scale
    grid: Grid
    folder: Path

    @property
    def path(self) -> Path:
        """Its grid as a file, for ``fedx sweep`` and ``fedx compare``."""
        return self.folder / "grid.yaml"


def planned(name: str, scale: Scale, params: Path, folder: Path) -> Figure:
    """Write a figure's grid into its folder and check every cell of it.

    Args:
        name: one of :data:`NAMES`.
        scale: how the grid is changed.
        params: the settings that it goes over; data sets are described there.
        folder: made where it is missing.

    Raises:
        ConfigError: a cell is impossible.
        StoreError: the folder can't be written.
    """
    path = folder / "grid.yaml"
    run_folder.write_yaml(path, scaled(preset.grid(name), scale))
    return Figure(name=name, scale=scale, grid=grid.load(path, params), folder=folder)


def dry_data(figure: Figure, root: Path) -> Path:
    """Prepare the few images of a dry run where they are not there yet.

    Args:
        figure: what is to be run.
        root: folder of all data sets; a folder in it is used.

    Returns:
        The folder of the dry run's data sets.

    Raises:
        SourceMissingError: the raw data is not there.
    """
    inside = root / DRY_DATA
    for cell in {cell.settings.dataset: cell for cell in figure.grid.cells}.values():
        settings = replace(cell.settings, seed=figure.grid.seed)
        data = inside / settings.dataset
        place = Place(store="", shards=str(data / "shards"), memory="")
        try:
            start.load(Setting(run="", data=data, place=place), settings)
        except DataError:
            for stage in (prepare, partition, reference):
                stage(settings, settings.dataset, inside)
    return inside


def draw(figure: Figure, run_root: Path) -> list[str]:
    """Draw from the runs that are finished.

    Returns:
        Names of the files in the figure's folder.

    Raises:
        RunError: no run has a finished round.
    """
    there = [c for c in figure.grid.cells if _begun(c, run_root)]
    if not there:
        raise RunError(
            f"no run of {figure.name} has a finished round in {run_root}; leave --draw-only out, "
            "or look elsewhere with --run-root"
        )
    records = find(run_root, [cell.run for cell in there])
    note = about(figure, len(there))
    if figure.name == "fig3":
        return _units(figure, records, note)
    own = figure.scale.dataset in (None, printed.DATASET) and not figure.scale.dry
    named = printed.SCORES.get(figure.name, {}) if own else {}
    return drawn.write_all(records, None, figure.folder, figure.name, note, named)


def about(figure: Figure, there: int) -> str:
    """Say in what a figure departs from the paper's; nothing where it does not."""
    rounds = {cell.settings.federation.rounds for cell in figure.grid.cells}
    said = f"{'/'.join(map(str, sorted(rounds)))} rounds"
    cells = len(figure.grid.cells)
    missing = f"{cells - there} of {cells} runs are missing"
    if figure.scale.dry:
        parts = [f"Dry run: {said}, at most {DRY_IMAGES} images, one epoch. Not a result"]
    else:
        parts = [f"{said}, the paper has {ROUNDS}"] if rounds != {ROUNDS} else []
    return ". ".join([*parts, *([missing] if there < cells else [])])


def _begun(cell: Cell, run_root: Path) -> bool:
    return (run_root / cell.run / "results" / "rounds.json").exists()


def _units(figure: Figure, records: Sequence[Record], note: str) -> list[str]:
    """Draw units kept by layer; of several seeds the first."""
    from flows.figures import files
    from flows.figures.layers import units_by_layer

    first: dict[str, Mapping[str, tuple[int, int]]] = {}
    for record in records:
        scope = record.settings.method.params.get("scope", "layer")
        first.setdefault(f"{record.settings.dataset}, {scope}", record.reports[-1].units_kept)
    table = Table(
        name=figure.name,
        title="Units kept by layer",
        columns=[Column("run"), Column("layer"), Column("kept", ",d"), Column("units", ",d"),
                 Column("share kept", ".1%")],
        rows=[
            [name, layer, kept, units, kept / units if units else None]
            for name, layers in first.items()
            for layer, (kept, units) in layers.items()
        ],
    )  # fmt: skip
    names = files.save(figure.folder, figure.name, units_by_layer(first, note))
    return [*names, *drawn.save_table(table, figure.folder)]
