"""``fedx audit``: a book read, handed on and checked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedx_core.rounds import audit

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    folder = tmp_path / "sites"
    audit.note(folder, "admitted", site="north")
    audit.note(folder, "refused", code="E_STALE", site="north")
    return folder


def test_a_book_is_shown_and_exported(fedx: Fedx, book: Path, capsys: Said) -> None:
    assert fedx("audit", "show", str(book)) == 0
    assert "refused  code=E_STALE  site=north" in capsys.readouterr().out
    assert fedx("audit", "export", str(book), "--event", "refused") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["code"] == "E_STALE"


def test_a_whole_book_verifies_and_a_missing_line_is_an_error(
    fedx: Fedx, book: Path, capsys: Said
) -> None:
    assert fedx("audit", "verify", str(book), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["faults"] == []
    lines = (book / audit.FILE).read_text().splitlines(keepends=True)
    (book / audit.FILE).write_text(lines[1])
    assert fedx("audit", "verify", str(book), "--expect", told["head"]) == 1
    said = capsys.readouterr().err
    assert "E_SITE" in said
    assert "line 1 does not follow" in said


def test_a_folder_without_a_book_is_said(fedx: Fedx, tmp_path: Path, capsys: Said) -> None:
    assert fedx("audit", "verify", str(tmp_path)) == 1
    assert "no audit.jsonl in" in capsys.readouterr().err
