"""The race with other frameworks counts what they note, and says who is missing."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("peers")


def test_a_round_is_what_was_noted_between_its_ends(peers: Any) -> None:
    events = [
        {"kind": "round", "ended": 110.0, "seconds": 5.0},  # the beginning
        {"kind": "train", "ended": 112.0, "seconds": 2.0},
        {"kind": "round", "ended": 120.0, "seconds": 8.0},  # the warm-up
        {"kind": "train", "ended": 126.0, "seconds": 4.0},
        {"kind": "train", "ended": 128.0, "seconds": 2.0},
        {"kind": "evaluate", "ended": 129.0, "seconds": 1.0},
        {"kind": "round", "ended": 130.0, "seconds": 14.0},
    ]
    found = peers.summary(events, 100.0, peers.BY_NAME["flower2"], clients=2)
    assert found == {
        "round_seconds": 10.0,
        "cpu_seconds": 6.0,
        "outside_milliseconds": 1000 * (10 - 1 - 6 / 2) / 2,
        "start_seconds": 10.0,
    }


def test_who_can_not_run_is_named_with_the_reason(peers: Any) -> None:
    everybody = list(peers.BY_NAME.values())
    frameworks = {"flower", "flower2", "pfl", "fluke"}
    without = peers.missing(everybody, None)
    assert set(without) == frameworks
    assert all("--peers" in why for why in without.values())
    wrong = peers.missing(everybody, "/nowhere/python")
    assert set(wrong) == frameworks
    assert all("/nowhere/python does not run" in why for why in wrong.values())
    nobody = peers.Entrant("nobody", "Nobody", 1, needs=("a_module_of_nobody",))
    assert peers.missing([nobody], sys.executable) == {
        "nobody": f"{sys.executable} has no a_module_of_nobody"
    }


def test_the_table_has_ratios_within_a_repeat_and_a_line_for_whoever_is_missing(
    peers: Any,
) -> None:
    def one(entrant: str, repeat: int, seconds: float) -> dict[str, Any]:
        numbers = ("cpu_seconds", "outside_milliseconds", "start_seconds", "pss_megabytes")
        return {
            "entrant": entrant, "repeat": repeat, "round_seconds": seconds,
            **dict.fromkeys(numbers, 1.0),
        }  # fmt: skip

    results = [
        *(one("plain", repeat, seconds) for repeat, seconds in enumerate((1.0, 10.0, 2.0))),
        *(one("fedx", repeat, seconds) for repeat, seconds in enumerate((2.0, 10.0, 6.0))),
        {"entrant": "pfl", "repeat": 0, "failed": "it fell over"},
    ]
    rows = peers.table("small", results, {"fluke": "not installed"}).splitlines()[4:]
    assert rows[0].startswith("| plain loop | 1 | 2.00 | 1.00 |")
    assert rows[1].startswith("| FedX | 1 | 6.00 | 2.00 |")
    assert rows[2].startswith("| pfl | 1 | not measured: it fell over |")
    assert rows[3].startswith("| fluke | 1 | not measured: not installed |")
    assert len({row.count("|") for row in rows}) == 1


def test_what_was_measured_is_in_the_table_and_is_not_run_again(
    peers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def run(entrant: Any, *_: Any) -> dict[str, Any]:
        asked.append(entrant.name)
        names = ("round", "cpu", "start")
        return {
            "rounds": [{"wall": 1.0}], "outside_milliseconds": 2.0, "pss_megabytes": 3.0,
            **{f"{name}_seconds": 1.0 for name in names},
        }  # fmt: skip

    jobs: Any = importlib.import_module("jobs")
    monkeypatch.setattr(jobs, "write", lambda *_: None)
    monkeypatch.setattr(peers, "run", run)
    output = tmp_path / "peers.jsonl"
    command = ["peers.py", "--jobs", "tiny100", "--rounds", "2", "--repeats", "1", "--only"]
    for names in (["plain"], ["plain", "fedx"]):
        monkeypatch.setattr(sys, "argv", [*command, *names, "--output", str(output)])
        peers.main()
    assert asked == ["plain", "fedx"]
    assert "| FedX | 1 | 1.00 | 1.00 |" in capsys.readouterr().out
