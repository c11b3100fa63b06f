import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

from flows.figures import style
from flows.figures.layers import units_by_layer

PNG = b"\x89PNG"


def drawn() -> Figure:
    return units_by_layer({"<b>&$x$": {"layer": (1, 2)}})


def test_equal_figures_have_equal_bytes_in_both_formats() -> None:
    for encode in (style.as_png, style.as_svg):
        assert encode(drawn()) == encode(drawn())
    assert style.as_png(drawn()).startswith(PNG)
    assert b"<dc:date>" not in style.as_svg(drawn())


def test_a_users_own_style_changes_no_figure() -> None:
    before = style.as_svg(drawn())
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert style.as_svg(drawn()) == before
        assert mpl.rcParams["font.size"] == 30


def test_svg_in_a_page_names_no_address_and_its_ids_are_its_own() -> None:
    text = style.inline_svg(drawn(), "units")
    assert "http" not in text
    assert style.INK not in text
    assert "currentColor" in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("units-") for name in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', text)
    assert used
    assert set(used) <= set(ids)
    ET.fromstring(text)


def test_names_are_drawn_as_they_are_and_escaped() -> None:
    text = style.inline_svg(drawn(), "units")
    assert "&lt;b&gt;&amp;$x$" in text
    assert "<b>" not in text
