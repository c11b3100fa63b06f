import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle, StepPatch

from flows.figures import style
from flows.figures.layers import scores_by_layer, units_by_layer


def heights(axes: Axes, bars: int) -> list[float]:
    return [part.get_height() for part in axes.containers[bars] if isinstance(part, Rectangle)]


def test_bars_stack_to_all_units_of_a_layer() -> None:
    figure = units_by_layer({"a": {"conv1": (3, 4), "conv2": (2, 8)}, "b": {"conv1": (0, 4)}})
    first, second = figure.axes
    assert (heights(first, 0), heights(first, 1)) == ([3, 2], [1, 6])
    assert [text.get_text() for text in first.texts] == ["75%", "25%"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["conv1", "conv2"]
    assert (second.get_title(loc="left"), heights(second, 1)) == ("b", [4])


def ridges(axes: Axes) -> list[StepPatch]:
    return [patch for patch in axes.patches if isinstance(patch, StepPatch)]


def test_a_ridge_counts_every_unit_and_its_tick_is_the_lowest_score_kept() -> None:
    scores = {"near": np.array([0.0, 0.01, 0.2, 0.4]), "far": np.array([-3.0, 0.5, 2.0])}
    kept = {"near": np.array([False, False, True, True]), "far": np.array([False, False, True])}
    [axes] = scores_by_layer(scores, kept).axes
    ticks = [line.get_xdata()[0] for line in axes.lines if line.get_color() == style.INK]
    assert ticks == [0.2, 2.0]
    lower, stacked, *_ = ridges(axes)
    values, _, floor = lower.get_data()
    top = stacked.get_data().values
    # One row is scaled to its fullest bin, so shares of units show, not units.
    unit = min(np.diff(np.unique(top)))
    assert round(float(((values - floor) / unit).sum())) == 2
    assert round(float(((top - floor) / unit).sum())) == 4


@pytest.mark.parametrize(
    "scores",
    [np.zeros(4), np.ones(4), np.array([1e-9, 1.0, 2.0, 3.0]), np.array([-1.0, 0.0, 1e3, 2e3])],
    ids=["all zero", "all equal", "one tiny", "of both signs"],
)
def test_all_scores_are_inside_the_axes_with_ticks_that_increase(scores: np.ndarray) -> None:
    [axes] = scores_by_layer({"layer": scores}, {"layer": np.zeros(4, dtype=bool)}).axes
    low, high = axes.get_xlim()
    assert low < scores.min()
    assert scores.max() < high
    ticks = list(axes.get_xticks())
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= high for tick in ticks)
