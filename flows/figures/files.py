"""Figures as files: PNG for pages and talks, SVG for papers."""

from pathlib import Path

from flows.figures import style
from flows.runs.run_folder import write


def save(folder: Path, name: str, figure: style.Figure) -> list[str]:
    """Write a figure as ``NAME.png`` and ``NAME.svg``.

    Args:
        folder: made where it is missing.
        name: without an ending.
        figure: its layout is fixed in place.

    Returns:
        Names of the files.

    Raises:
        StoreError: the folder can't be written.
    """
    style.laid_out(figure)
    for ending, content in (("png", style.as_png(figure)), ("svg", style.as_svg(figure))):
        write(folder / f"{name}.{ending}", content)
    return [f"{name}.png", f"{name}.svg"]
