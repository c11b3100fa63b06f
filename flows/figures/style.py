"""What all figures share: a palette that colour-blind readers can tell apart, fonts, and files.

Source of the palette: Okabe and Ito, Color Universal Design, 2008, without its yellow, which is
too pale on white.
"""

import io
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Literal, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure  # as itself: for others' annotations

from flows.figures import letters

INK = "#1f2328"
"""Of text and frames. In a page it becomes the page's own colour of text."""
FAINT = "#8c959f"
"""Of grids; visible on white and on black."""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("-", "--", ":", "-.")
KEPT, PRUNED = "#e8b71a", "#b8452c"
WIDTH = 9.0
"""Inches."""

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.family": letters.FONT,
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedx",  # ids are random without it
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5"
    "xtick.color": INK,
    "ytick.color": INK,
}

Drawing = ParamSpec("Drawing")


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Let a function draw in FedX's style, whatever the user's matplotlib is set to."""

    @wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure:
        with rc_context():
            _use_style()
            return draw(*args, **kwargs)

    return drawn


def run_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each run its colour, the same in all figures of a report; they repeat after seven."""
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def dashes(index: int) -> str:
    """Return the line style of the n-th run: another one each time that the colours repeat."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw a faint grid behind the data."""
    axes.grid(axis=axis)


def note(figure: Figure, text: str) -> None:
    """Write above a figure what its reader must know, such as that it is no result."""
    if text:
        figure.suptitle(text, fontsize="medium", fontweight="bold", color=PRUNED, x=0.01, ha="left")


def plain(axes: Axes) -> None:
    """Take frame and ticks away."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


@styled
def laid_out(figure: Figure) -> Figure:
    """Fix the places of all parts, in place, so that writing several files takes less time."""
    letters.borrow(figure)
    with letters.unmeasured():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def as_png(figure: Figure) -> bytes:
    """Encode as PNG on white, 160 dots an inch; names in any script."""
    letters.borrow(figure)
    with letters.escaped(figure):
        return _saved(figure, format="png", dpi=160, metadata={"Software": None})


def as_svg(figure: Figure, *, transparent: bool = False) -> bytes:
    """Encode as SVG with text as text; equal figures give equal bytes."""
    metadata = {"Date": None, "Creator": None}
    letters.borrow(figure)
    with letters.unmeasured():
        return _saved(figure, format="svg", dpi=160, metadata=metadata, transparent=transparent)


def inline_svg(figure: Figure, name: str) -> str:
    """Write an ``<svg>`` element for a page: transparent, its ink the page's colour of text.

    Args:
        figure: to write.
        name: unique in the page; the ids inside get it in front.
    """
    text = as_svg(figure, transparent=True).decode()
    text = text[text.index("<svg") :]
    text = text.replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    # Namespaces are not fetched, but HTML needs none, and a page without "http" is easy to check.
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    # The page says how wide it is.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(
        r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)  # fmt: skip


def _saved(figure: Figure, **how: Any) -> bytes:
    target = io.BytesIO()
    with rc_context():
        _use_style()
        figure.savefig(target, **how)
    return target.getvalue()


def _use_style() -> None:
    from matplotlib import rcdefaults, rcParams

    rcdefaults()
    rcParams.update(STYLE)
