"""Sections to one HTML page that needs nothing else: no network, no script, no other file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.report.parts import Drawing, Section, Table

HERE = Path(__file__).parent


def render(
    title: str, sections: Sequence[Section], colours: Mapping[str, str], written_by: str
) -> str:
    """Write the page.

    Links to the files beside it are relative; everything that is shown is in the page itself.

    Args:
        title: of the page.
        sections: in order; empty ones say what is missing.
        colours: of each run, as in the figures.
        written_by: what made the page, for its last line.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from flows.figures.style import inline_svg

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def drawn(drawing: Drawing) -> Markup:
        # Matplotlib escapes the names that it draws.
        return Markup(inline_svg(drawing.figure, drawing.name))

    return environment.get_template("page.html").render(
        title=title,
        sections=sections,
        colours=colours,
        written_by=written_by,
        style=Markup((HERE / "page.css").read_text()),
        drawn=drawn,
        is_link=lambda cell: cell.startswith(("http://", "https://")),
        is_long=lambda table: len(table.rows) > LONG and not table.stays_open,
    )


LONG = 16
"""Rows beyond which a table is folded."""


def files(sections: Sequence[Section]) -> tuple[list[Drawing], list[Table]]:
    """List all figures and all tables of some sections."""
    return (
        [drawing for section in sections for drawing in section.drawings],
        [table for section in sections for table in section.tables],
    )
