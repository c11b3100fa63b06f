"""Names in any script: letters that the figures' font lacks come from another one of this machine.

What no font has stays text in SVG, where the reader's machine draws it, and is escaped in PNG.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import Formatter, FuncFormatter

FONT = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more."""
_NO_LETTERS = "Last Resort"
"""Comes with it too, and has a box for everything."""


def borrow(figure: Figure) -> None:
    """Let a figure draw letters with all fonts that it needs, in place."""
    lacking = {letter for text in _texts(figure) for letter in _lacking(text.get_text())}
    if not lacking:
        return
    families = [FONT, *_families(frozenset(lacking))]
    for text in _texts(figure):
        text.set_fontfamily(families)
    for axis in _axes(figure):
        axis.set_tick_params(labelfontfamily=families)


@contextmanager
def escaped(figure: Figure) -> Iterator[None]:
    """Write for a while what no font of this machine has as its number in Unicode."""
    texts = [(text, said) for text in _texts(figure) if _escape(said := text.get_text()) != said]
    # Labels of ticks are written anew at each drawing.
    labelled = [
        (axis, axis.get_major_formatter())
        for axis in _axes(figure)
        if any(_escape(said := label.get_text()) != said for label in axis.get_majorticklabels())
    ]
    for text, said in texts:
        text.set_text(_escape(said))
    for axis, form in labelled:
        axis.set_major_formatter(FuncFormatter(partial(_escaped_label, form)))
    try:
        yield
    finally:
        for axis, form in labelled:
            axis.set_major_formatter(form)
        for text, said in texts:
            text.set_text(said)


def _escaped_label(form: Formatter, value: float, position: int | None) -> str:
    return _escape(form(value, position))


@contextmanager
def unmeasured() -> Iterator[None]:
    """Say nothing of letters that can't be measured here, where they are drawn elsewhere."""
    with warnings.catch_warnings():
        # Each is given another font, or escaped, before anything is saved.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


def _texts(figure: Figure) -> list[Text]:
    for axis in _axes(figure):
        axis.get_majorticklabels()  # which writes them
    return [found for found in figure.findobj(Text) if isinstance(found, Text)]


def _axes(figure: Figure) -> list[Axis]:
    return [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]


def _lacking(text: str) -> set[str]:
    """Name the letters that the figures' own font lacks; signs without a picture are no letters."""
    return {c for c in text if not c.isspace() and c.isprintable() and ord(c) not in _own()}


def _escape(text: str) -> str:
    lost = _lacking(text) - _found(frozenset(_lacking(text)))
    return "".join(c.encode("unicode_escape").decode() if c in lost else c for c in text)


@cache
def _families(letters: frozenset[str]) -> tuple[str, ...]:
    """Choose installed fonts, one after another, until all letters are there that any has."""
    left, chosen = {ord(letter) for letter in letters}, []
    for name, path in _installed():
        if not left:
            break
        if there := left & _covered(path):
            chosen.append(name)
            left -= there
    return tuple(chosen)


@cache
def _found(letters: frozenset[str]) -> frozenset[str]:
    paths = dict(_installed())
    covered = [_covered(paths[name]) for name in _families(letters)]
    return frozenset(letter for letter in letters if any(ord(letter) in each for each in covered))


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Name this machine's upright fonts and their files, first those for many scripts."""
    entries = [
        (entry.name, entry.fname)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not entry.name.startswith(_NO_LETTERS)
    ]
    wanted = ("Noto Sans", "Unifont")
    ranked = sorted(
        entries, key=lambda e: (not e[0].startswith(wanted), "Sans" not in e[0], e[0], e[1])
    )
    return tuple(dict(reversed(ranked)).items())[::-1]


@cache
def _covered(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()  # a damaged font file is nobody's mistake here


def _own() -> frozenset[int]:
    return _covered(font_manager.findfont(FONT, fallback_to_default=True))
