from dataclasses import replace

from matplotlib.figure import Figure

from fedx_core.wire.messages import RoundReport, Traffic
from flows.figures import accuracy, accuracy_by_bytes, accuracy_by_round

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


def test_each_curve_stands_alone_too() -> None:
    runs = {"run": reports(), "other": reports(sent=2 * MIB)}
    by_round, by_bytes = accuracy_by_round(runs), accuracy_by_bytes(runs)
    assert lines(by_round, 0)[0] == ([1, 2, 2, 3], [0.5, 0.6, 0.2, 0.7])
    assert lines(by_round, 0)[1] == ([2], [0.2])  # the triangle
    assert lines(by_bytes, 0)[1] == ([2, 4, 4, 6], [0.5, 0.6, 0.2, 0.7])


def test_a_run_has_one_colour_and_repeated_colours_have_other_dashes() -> None:
    runs = {f"run{number}": reports() for number in range(9)}
    by_round, by_bytes = accuracy_by_round(runs), accuracy_by_bytes(runs)
    named = [line for line in by_round.axes[0].lines if line.get_label() in runs]
    assert [line.get_color() for line in named] == [
        line.get_color() for line in by_bytes.axes[0].lines
    ]
    assert named[0].get_color() == named[7].get_color()
    assert len({(line.get_color(), line.get_linestyle()) for line in named}) == 9


def test_a_run_of_one_round_is_a_dot() -> None:
    for figure in (
        accuracy_by_round({"run": reports()[:1]}),
        accuracy_by_bytes({"run": reports()[:1]}),
    ):
        [line] = figure.axes[0].lines
        assert line.get_marker() == "o"
    assert accuracy_by_round({"run": reports()}).axes[0].lines[0].get_marker() == ""
