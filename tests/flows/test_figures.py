from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from fedx_core.messages import RoundReport, Traffic
from flows.figures import accuracy

MIB = 2**20


def reports(metric: str = "overall_accuracy", *, sent: int = MIB) -> list[RoundReport]:
    first = RoundReport(
        round_index=1,
        rounds=3,
        cohort=("a",),
        failures=(),
        metrics={metric: 0.5},
        metrics_before_pruning={},
        pruned=False,
        traffic={"a": Traffic(downlink=sent)},
        paper_bytes=sent,
        sparsity=0.0,
        units_kept={},
        train_loss=1.0,
        seconds={},
    )
    event = replace(
        first,
        round_index=2,
        metrics={metric: 0.2},
        metrics_before_pruning={metric: 0.6},
        pruned=True,
    )
    return [first, event, replace(first, round_index=3, metrics={metric: 0.7})]


def lines(figure: Figure, panel: int) -> list[tuple[list[float], list[float]]]:
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in figure.axes[panel].lines
    ]


def test_the_curve_falls_at_the_pruning_event_and_costs_add_up() -> None:
    figure = accuracy({"run": reports()})
    scores = [0.5, 0.6, 0.2, 0.7]
    assert lines(figure, 0)[0] == ([1, 2, 2, 3], scores)
    assert lines(figure, 1)[0] == ([1, 2, 2, 3], scores)
    assert figure.axes[0].get_ylabel() == "overall accuracy"


def test_a_bound_without_traffic_is_a_level_line_and_many_labels_have_their_metric() -> None:
    figure = accuracy({"run": reports("micro_map"), "bound": reports("micro_map", sent=0)})
    level = lines(figure, 1)[1]
    assert set(level[1]) == {0.7}
    assert figure.axes[0].get_ylabel() == "micro mAP"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "run",
        "bound",
    ]


def test_equal_reports_draw_equal_bytes(tmp_path: pytest.TempPathFactory) -> None:
    import io

    drawn = []
    for _ in range(2):
        target = io.BytesIO()
        accuracy({"run": reports()}).savefig(target, format="png")
        drawn.append(target.getvalue())
    assert drawn[0] == drawn[1]
