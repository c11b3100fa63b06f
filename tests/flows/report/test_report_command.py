import json
from collections.abc import Callable
from pathlib import Path

import pytest

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]


def test_a_report_lies_in_its_runs_folder_and_its_page_is_named(
    fedx: Fedx, two_runs: Path, tmp_path: Path, capsys: Said
) -> None:
    arguments = ("report", "base", "--run-root", str(two_runs), "--heat-maps", "0")
    assert fedx(*arguments) == 0
    said = capsys.readouterr()
    page = two_runs / "base" / "report" / "report.html"
    assert said.out == f"{page}\n"
    assert page.is_file()
    assert "not shown: Heat maps: Left out, as --heat-maps 0 asks." in said.err


def test_several_runs_go_where_they_are_told_and_json_has_the_headline(
    fedx: Fedx, two_runs: Path, tmp_path: Path, capsys: Said
) -> None:
    arguments = (
        "report", "base", str(two_runs / "chance"), "--run-root", str(two_runs),
        "--out", "compared", "--heat-maps", "0", "--at-accuracy", "0.999", "--json",
    )  # fmt: skip
    assert fedx(*arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == "compared/report.html"
    assert [row["run"] for row in found["runs"]] == ["base", "chance"]
    assert found["runs"][0]["MiB to 99.9%"] is None
    assert all((tmp_path / "compared" / name).is_file() for name in found["files"])


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["nobody"], "error E_RUN: no run 'nobody'", 1),
        (["base", "./copy/base"], "error E_CONFIG: two runs are named 'base'", 1),
        (["base", "--heat-maps", "-1"], "--heat-maps", 2),
        (["base", "--at-accuracy", "75"], "--at-accuracy", 2),
        ([], "RUN", 2),
    ],
)
def test_mistakes_end_in_a_line(
    fedx: Fedx, two_runs: Path, tmp_path: Path, capsys: Said,
    arguments: list[str], said: str, code: int,
) -> None:  # fmt: skip
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "base").symlink_to(two_runs / "base")
    assert fedx("report", *arguments, "--run-root", str(two_runs)) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written_is_an_error(
    fedx: Fedx, two_runs: Path, tmp_path: Path, capsys: Said
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("report", "base", "--run-root", str(two_runs), "--heat-maps", "0")
    assert fedx(*arguments, "--out", "file") == 1
    said = capsys.readouterr().err
    assert "error E_STORAGE: can't write to file: File exists; choose another folder" in said
