import math
from itertools import combinations

import numpy as np
import pytest
from matplotlib.patches import Circle, Rectangle

from fedx_core.wire.messages import Traffic
from flows.figures import atlas
from flows.figures.clients import labels_by_client
from flows.figures.stability import agreement
from flows.figures.traffic import MIB, bytes_by_client


def test_a_cell_is_the_share_of_a_clients_examples_and_a_bar_their_number() -> None:
    figure = labels_by_client(
        ["water", "wood"], {"a": [3, 1], "b": [0, 2], "empty": [0, 0]}, {"a": 4, "b": 2, "empty": 0}
    )
    left, right = figure.axes[:2]
    assert np.asarray(left.images[0].get_array()).tolist() == [[0.75, 0.25], [0, 1], [0, 0]]
    assert [text.get_text() for text in left.texts] == ["75", "25", "0", "100", "0", "0"]
    [bars] = right.containers
    assert [bar.get_width() for bar in bars if isinstance(bar, Rectangle)] == [4, 2, 0]


def test_bars_of_a_client_add_up_to_its_bytes() -> None:
    traffic = Traffic(downlink=4 * MIB, uplink=2 * MIB, mask=MIB, retry=3 * MIB, evaluation=5 * MIB)
    [axes] = bytes_by_client({"run": {"a": traffic, "b": Traffic(uplink=MIB)}}).axes
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert [row[0] for row in widths] == [4, 2, 1, 3, 5]
    assert [sum(row[client] for row in widths) for client in (0, 1)] == [15, 1]
    assert axes.containers[-1][0].get_x() == 10  # evaluation comes last, after all that counts


def test_areas_of_circles_are_numbers_of_examples_and_circles_do_not_overlap() -> None:
    examples = {"Austria": 400, "Belgium": 900, "Luxembourg": 100, "Switzerland": 100, "Kosovo": 1}
    [axes] = atlas.country_map(examples).axes
    circles = {str(p.get_label()): p for p in axes.patches if isinstance(p, Circle)}
    for name, circle in circles.items():
        area = math.pi * circle.radius**2
        assert area / examples[name] == pytest.approx(math.pi * atlas.LARGEST**2 / 900)
    for one, other in combinations(circles.values(), 2):
        assert math.dist(one.center, other.center) > one.radius + other.radius
    shown = [text.get_text() for text in axes.texts]
    assert "Belgium\n900" in shown


def test_only_countries_with_a_place_make_a_map() -> None:
    assert atlas.known({"Finland": 1, "Portugal": 2})
    assert not atlas.known({"Finland": 1})
    assert not atlas.known({"Finland": 1, "Narnia": 2})


def test_a_matrix_shows_both_indices_and_leaves_out_what_cannot_be_compared() -> None:
    found = np.array([[1, 0.4, np.nan], [0.4, 1, np.nan], [np.nan, np.nan, 1]])
    chance = np.full((3, 3), 0.25)
    axes = agreement(["a", "b", "c"], found, chance).axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["1.00", "0.40\n(0.25)", "-", "0.40\n(0.25)", "1.00", "-", "-", "-", "1.00"]
    assert np.ma.is_masked(axes.images[0].get_array()[0, 2])
