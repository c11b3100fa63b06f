from collections.abc import Sequence

import pytest
from matplotlib.figure import Figure

from flows.comparing.points import Point
from flows.figures import tradeoffs


def point(
    series: str, rate: float | None, score: float, *, model: str = "resnet6", mib: float = 10.0,
    personal: bool = False, half: float | None = None,
) -> Point:  # fmt: skip
    return Point(
        dataset="synthetic", model=model, method=series.split()[0], series=series,
        metric="overall_accuracy", runs=("r",),
        rate=rate, alive=None if rate is None else 1e5 * (1 - rate) + 1, mib=mib, score=score,
        personal=personal,
        low=None if half is None else score - half, high=None if half is None else score + half,
    )  # fmt: skip


POINTS = [
    point("fedavg", 0.0, 0.8, mib=20),
    point("fedx (lrp)", 0.5, 0.7, mib=15, half=0.05),
    point("fedx (lrp)", 0.9, 0.4, mib=12, half=0.1),
    point("feddst", 0.5, 0.3, mib=16),
    point("spafl", None, 0.6, mib=1, personal=True),
]


def lines(figure: Figure, panel: int = 0) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in figure.axes[panel].lines
        if not str(line.get_label()).startswith("_")
    }


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_lines_over_rates_begin_at_fedavg_and_a_model_of_ones_own_is_not_among_them() -> None:
    found = lines(tradeoffs.against_rate(POINTS, "overall_accuracy"))
    assert found["fedx (lrp)"] == [(0.0, 0.8), (0.5, 0.7), (0.9, 0.4)]
    assert found["feddst"] == [(0.0, 0.8), (0.5, 0.3)]
    assert "spafl" not in found


def test_scores_that_are_printed_elsewhere_stand_hollow_beside_their_series() -> None:
    printed = {"fedx (lrp)": {0.5: 0.75}, "feddip": {0.5: 0.6}}
    figure = tradeoffs.against_rate(POINTS, "overall_accuracy", printed=printed)
    (mark,) = (line for line in figure.axes[0].lines if line.get_label() == "in the paper's text")
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0.5], [0.75])
    assert mark.get_markerfacecolor() == "none"
    ours = next(line for line in figure.axes[0].lines if line.get_label() == "fedx (lrp)")
    assert mark.get_markeredgecolor() == ours.get_color()


def test_intervals_are_drawn_where_there_are_seeds() -> None:
    figure = tradeoffs.against_rate(POINTS, "overall_accuracy")
    bars = [bar.lines[2][0].get_segments()[0] for bar in figure.axes[0].containers]
    assert [[y for _, y in bar] for bar in bars] == [
        pytest.approx([0.65, 0.75]),
        pytest.approx([0.3, 0.5]),
    ]


def test_the_front_is_ringed_among_the_bytes() -> None:
    found = lines(tradeoffs.against_bytes(POINTS, "overall_accuracy"))
    assert found["spafl, clients' own"] == [(1, 0.6)]
    assert found["Pareto front"] == [(12, 0.4), (15, 0.7), (20, 0.8)]


def both_models(methods: Sequence[str]) -> list[Point]:
    return [
        point(series, rate, 0.5, model=model)
        for model in ("resnet6", "resnet18")
        for series, rate in [("fedavg", 0.0), *((name, 0.5) for name in methods)]
    ]


def test_several_models_are_lines_and_with_several_methods_panels() -> None:
    figure = tradeoffs.against_rate(both_models(["fedx (lrp)"]), "micro_map")
    assert titles(figure) == [""]
    assert list(lines(figure)) == ["resnet6", "resnet18"]
    assert figure.axes[0].get_ylabel() == "micro mAP"
    figure = tradeoffs.against_bytes(both_models(["fedx (lrp)", "feddst"]), "micro_map")
    assert titles(figure) == ["resnet6", "resnet18"]
    assert set(lines(figure, 1)) == {"fedavg", "fedx (lrp)", "feddst", "Pareto front"}


def test_a_note_stands_above_the_figure() -> None:
    figure = tradeoffs.against_alive(POINTS, "overall_accuracy", "dry run")
    assert figure.get_suptitle() == "dry run"
