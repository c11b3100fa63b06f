"""A report as files: the page, and its figures and tables beside it."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedx_core import __version__
from fedx_core.base.errors import StoreError
from flows.report import data, explanations, outcome, page, probes, pruning, scores, settings
from flows.report.gather import Run
from flows.report.parts import Section
from flows.runs.run_folder import write


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        page: the HTML file.
        files: figures and tables, relative to the page's folder.
        headline: the first table, one mapping a run, for machines.
        missing: what could not be shown and why, each after the title of its section.
    """

    page: Path
    files: tuple[str, ...]
    headline: tuple[dict[str, Any], ...]
    missing: tuple[str, ...]


def write_report(
    runs: Sequence[Run], folder: Path, *, heat_maps: int, accuracy: float | None
) -> Report:
    """Draw and write everything; files of an earlier report there are replaced.

    Args:
        runs: at least one.
        folder: to write to.
        heat_maps: images per run; 0 for none.
        accuracy: MiB to which are told; None takes the highest that all runs reached.

    Raises:
        StoreError: the folder can't be written.
    """
    from flows.figures.style import as_png, as_svg, laid_out, run_colours

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"can't write to {folder}: {error.strerror or error}; choose another folder with --out"
        ) from error
    aim = outcome.common_accuracy(runs) if accuracy is None else accuracy
    sections = _sections(runs, aim, heat_maps)
    drawings, tables = page.files(sections)
    contents: dict[str, bytes] = {}
    for drawing in drawings:
        laid_out(drawing.figure)
        contents[f"figures/{drawing.name}.svg"] = as_svg(drawing.figure)
        contents[f"figures/{drawing.name}.png"] = as_png(drawing.figure)
    for table in tables:
        contents[f"tables/{table.name}.csv"] = table.as_csv().encode()
        contents[f"tables/{table.name}.tex"] = table.as_latex().encode()
    names = [run.name for run in runs]
    title = f"FedX report: {', '.join(names)}"
    text = page.render(title, sections, run_colours(names), _written_by())
    for name, content in contents.items():
        write(folder / name, content)
    write(folder / "report.html", text.encode())
    headline = outcome.headline(runs, aim)
    return Report(
        page=folder / "report.html",
        files=tuple(contents),
        headline=tuple(
            dict(zip((column.title for column in headline.columns), row, strict=True))
            for row in headline.rows
        ),
        missing=tuple(
            f"{section.title}: {line}" for section in sections for line in section.missing
        ),
    )


def _sections(runs: Sequence[Run], accuracy: float, heat_maps: int) -> list[Section]:
    return [
        *outcome.sections(runs, accuracy),
        *probes.sections(runs),
        *pruning.sections(runs),
        explanations.section(runs, heat_maps),
        *data.sections(runs),
        scores.section(runs),
        *settings.sections(runs),
    ]


def _written_by() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "matplotlib"))
    return (
        f"Written by FedX {__version__} with Python {platform.python_version()}, {packages}. "
        "Colours after Okabe and Ito."
    )
