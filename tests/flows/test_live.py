import io
from dataclasses import replace

import pytest
from rich.console import Console

from bed import Bed, tiny
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from flows.runs import live
from flows.runs.live import Beside, Lines, Terminal, Watched, line


def test_a_line_says_the_numbers_of_its_round_and_the_bytes_of_all(bed: Bed) -> None:
    reports = list(federate(tiny(), bed.setting(), InProcess(1)))
    shown = line(reports[:2])
    before, after = reports[0], reports[1]
    assert shown.startswith("round 2/3  accuracy ")
    assert f"{100 * after.metrics_before_pruning['overall_accuracy']:.1f} % before" in shown
    assert f"sparsity {100 * after.sparsity:.1f} %" in shown
    total = (before.wire_bytes + after.wire_bytes) / 2**20
    assert f"{after.wire_bytes / 2**20:.2f} MiB, {total:.2f} in all" in shown
    many = replace(after, metrics={"micro_map": 0.5}, metrics_before_pruning={})
    assert "mAP  50.0 %" in line([many])
    judged = replace(after, validation={"overall_accuracy": 0.25}, best_round=2)
    assert "validation  25.0 % (best)  loss" in line([judged])
    assert "validation  25.0 %  loss" in line([replace(judged, best_round=1)])


def test_a_display_is_told_each_step_and_each_client(bed: Bed) -> None:
    told: list[str] = []

    class Listening(Lines):
        def doing(self, what: str) -> None:
            told.append(what)

    runtime = Watched(InProcess(1), Listening(told.append))
    list(federate(tiny(federation__rounds=1, method__warmup_rounds=1), bed.setting(), runtime))
    assert told == [
        "dispatch",
        *(f"train {done}/3 clients" for done in range(4)),
        "aggregate", "relevance", "prune", "evaluate", "evaluate",
        *(f"evaluate {done}/3 clients" for done in range(4)),
        "commit",
    ]  # fmt: skip


def test_a_terminal_keeps_its_lines_and_takes_the_moving_one_away() -> None:
    screen = io.StringIO()
    with Terminal(Console(file=screen, force_terminal=True, width=80)) as display:
        display.began("a", 3, 0)
        display.doing("aggregate")
        display.say("round 1/3  [not markup]")
    shown = screen.getvalue()
    assert "run a: 3 rounds" in shown
    assert "round 1/3  [not markup]" in shown
    assert shown.endswith("\x1b[2K")


def test_a_terminal_shows_a_bar_the_step_and_when_the_run_may_end(bed: Bed) -> None:
    screen = io.StringIO()
    reports = list(federate(tiny(), bed.setting(), InProcess(1)))
    with Terminal(Console(file=screen, force_terminal=True, width=80), "http://prefect") as display:
        display.began("base", 10, 0)
        display.finished_round(reports[:1])
        display.doing("train 2/3 clients")
    shown = screen.getvalue()
    assert "in Prefect: http://prefect" in shown
    last = shown[shown.rindex("base  1/10 rounds") :]
    assert "train 2/3 clients, for 0 s; " in last
    assert " s per round; about " in last


def test_a_display_with_a_log_writes_its_lines_there_too(
    bed: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[str] = []
    reports = list(federate(tiny(), bed.setting(), InProcess(1)))
    for show in ("terminal", "json", "nothing"):
        logged.clear()
        with live.display(show, logged.append, "http://prefect") as display:
            display.began("base", 3, 0)
            display.finished_round(reports)
            display.warn("disk nearly full")
            display.mention("charts at ...")
        assert logged == [
            "run base: 3 rounds", line(reports), "warning: disk nearly full", "charts at ...",
        ]  # fmt: skip
    assert "in Prefect: http://prefect" in capsys.readouterr().err.splitlines()


def test_a_display_beside_another_passes_on_all_that_it_does_not_do_itself() -> None:
    said: list[str] = []
    with Beside(Lines(said.append)) as display:
        display.began("base", 3, 0)
        display.warn("disk nearly full")
        display.mention("charts at ...")
    assert said == ["run base: 3 rounds", "warning: disk nearly full", "charts at ..."]
