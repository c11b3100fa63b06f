"""What programs rely on: exit codes, and JSON for answers and errors alike."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from bed import ROOT
from fedx_core.base import errors
from flows.base import exits
from flows.cli import app

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


def test_help_says_every_exit_code(fedx: Fedx, capsys: Said) -> None:
    assert fedx("--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for code, meaning in exits.MEANINGS.items():
        assert f"{code}: {meaning}" in shown


def test_exit_codes_are_of_errors_that_exist() -> None:
    def codes(kind: type[errors.FedXError]) -> set[str]:
        return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))

    assert set(exits.CODES) - codes(errors.FedXError) == {"E_USAGE"}
    assert exits.exit_code("E_QUORUM") == 3
    assert exits.exit_code("E_NAME") == 1


def test_every_command_speaks_json() -> None:
    def silent(group: Any) -> list[str]:
        found = []
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                found += [f"{name} {below}" for below in silent(command)]
            elif "--json" not in {option for p in command.params for option in p.opts}:
                found.append(name)
        return found

    assert silent(typer.main.get_command(app)) == []


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["run", "--method", "fedprx", *QUIETLY], "E_NAME", 1),
        (["resume", "nobody"], "E_RUN", 1),
        (["data", "eurosatt"], "E_CONFIG", 1),
        (["gc", "nobody"], "E_RUN", 1),
        (["run", "--raunds", "3"], "E_USAGE", 2),
        (["run", "--set", "training.epochs"], "E_USAGE", 2),
        (["fly"], "E_USAGE", 2),
    ],
)
def test_an_error_is_an_object_on_stderr(
    arguments: list[str], code: str, exit_code: int, fedx: Fedx, capsys: Said
) -> None:
    assert fedx(*arguments, "--json") == exit_code
    said = capsys.readouterr()
    assert not said.out
    error = json.loads(said.err)["error"]
    assert (error["code"], error["exit_code"]) == (code, exit_code)
    assert error["message"]


def test_doctor_data_and_gc_answer_with_one_object(
    fedx: Fedx, capsys: Said, tiny_params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer() -> dict[str, object]:
        said = capsys.readouterr()
        assert not said.err
        found: dict[str, object] = json.loads(said.out)
        return found

    monkeypatch.delenv("FEDX_DATA_ROOT")
    params = ("--params", str(tiny_params))
    assert fedx("doctor", *params, "--json") == 1
    found = answer()
    assert found["ok"] is False
    checks = found["checks"]
    assert isinstance(checks, list)
    assert [c["fix"] for c in checks if c["what"] == "data"] == ["fedx data synthetic"]
    assert fedx("data", "synthetic", *params, "--json") == 0
    places = {part: f"data/synthetic/{part}" for part in ("prepared", "shards", "reference")}
    found = answer()
    assert found.pop("summary")
    assert found == {"dataset": "synthetic", **places}
    assert fedx("doctor", *params, "--json") == 0
    assert answer()["ok"] is True
    assert fedx("run", *QUIETLY, "--rounds", "1", "--run", "a") == 0
    capsys.readouterr()
    assert fedx("gc", "a", "--json") == 0
    assert answer() == {"run": "a", "states_kept": 3}


def test_the_page_about_the_command_line_has_the_same_exit_codes() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.M)
    assert {int(code): meaning for code, meaning in rows} == exits.MEANINGS
