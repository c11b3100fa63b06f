import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from bed import ROOT
from fedx_core.base.errors import RunError
from flows.ending import away
from flows.runs.run_folder import RunFolder


def unreachable() -> dict[str, Any]:
    raise httpx.ConnectError("Connection refused")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(away, "_gone", threading.Event())
    found = RunFolder(tmp_path / "run")
    found.results.mkdir(parents=True)
    return found


def test_a_complete_run_ends_well_without_its_server(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.results / "summary.json").write_text(json.dumps({"rounds": 4, "seed": 1}))
    assert away.end(unreachable, folder, 4) == {"rounds": 4, "seed": 1}
    assert "the run is complete" in capsys.readouterr().err


def test_an_incomplete_run_says_how_to_go_on(folder: RunFolder) -> None:
    with pytest.raises(RunError, match="fedx resume run"):
        away.end(unreachable, folder, 4)
    (folder.results / "summary.json").write_text(json.dumps({"rounds": 3}))
    with pytest.raises(RunError, match="Connection refused"):
        away.end(unreachable, folder, 4)


def test_with_a_server_nothing_changes(folder: RunFolder) -> None:
    assert away.end(lambda: {"rounds": 1}, folder, 4) == {"rounds": 1}


def test_a_command_leaves_at_once_where_the_server_is_away(folder: RunFolder) -> None:
    script = """
import threading
from flows.ending import away
away._gone.set()
threading.Thread(target=threading.Event().wait).start()
print("done")
away.leave(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "done\n")
    with pytest.raises(SystemExit) as left:
        away.leave(2)
    assert left.value.code == 2
