"""Class names in any script: no warning (warnings are errors in tests), no box."""

import io

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from flows.figures import letters, style

NAMES = ["森林", "غابة", "जंगल", "🌲", "Wald"]
BELL = "\u2335"
"""A letter that DejaVu Sans lacks and a font that comes with matplotlib has."""


@style.styled
def drawn(names: list[str]) -> Figure:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set_xticks(range(len(names)), names)
    axes.plot(range(len(names)), label=names[0])
    axes.set_title(names[-1])
    axes.legend()
    return figure


def picture(figure: Figure) -> np.ndarray:
    with Image.open(io.BytesIO(style.as_png(figure))) as image:
        return np.asarray(image)


def test_names_of_all_scripts_stay_text_in_svg() -> None:
    text = style.as_svg(style.laid_out(drawn(NAMES))).decode()
    for name in NAMES:
        assert f">{name}</text>" in text


def test_what_no_font_here_has_is_escaped_in_png_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(letters, "_families", lambda lacking: ())
    letters._found.cache_clear()
    figure = drawn(["森", "Wald"])
    assert (picture(figure) == picture(drawn([r"\u68ee", "Wald"]))).all()
    assert "森" in style.as_svg(figure).decode()
    letters._found.cache_clear()


def test_letters_come_from_another_font_where_this_machine_has_one() -> None:
    families = letters._families(frozenset(BELL))
    assert families
    assert not families[0].startswith("Last Resort")
    file = font_manager.findfont(families[0])
    assert ord(BELL) in letters._covered(file)
    figure = drawn([BELL, "Wald"])
    style.as_png(figure)
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(Text)} == {
        (letters.FONT, *families)
    }


def test_figures_in_the_fonts_own_letters_are_as_they_were() -> None:
    figure = drawn(["Wald", "forêt", "лес", "δάσος"])
    style.as_png(figure)
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(Text)} == {(letters.FONT,)}
