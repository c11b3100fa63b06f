"""Completion as bash asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bed import ROOT
from fedx_core.base import plugins
from fedx_core.models import catalogue

SCRIPT = r"""
set -eu
source <(_FEDX_COMPLETE=source_bash fedx)
complete -p fedx > /dev/null
COMP_WORDS=($LINE)
[[ "$LINE" == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_fedx_completion fedx
printf '%s\n' "${COMPREPLY[@]}"
"""


def offered(line: str, folder: Path) -> list[str]:
    command = folder / ".bin" / "fedx"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flows.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "LINE": line, "FEDX_RUN_ROOT": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fedx do", ["doctor"]),
        ("fedx run --method ", plugins.names("methods")),
        ("fedx run --relevance ra", ["random"]),
        ("fedx run --model ", catalogue.names()),
        ("fedx run --dataset eu", ["eurosat"]),
        ("fedx data ", ["synthetic", "countries", "eurosat", "bigearthnet"]),
        ("fedx resume b", ["base"]),
        ("fedx resume --run-root elsewhere ", ["other"]),
    ],
)
def test_bash_is_offered_the_names_there_are(line: str, wanted: list[str], tmp_path: Path) -> None:
    for run in ("runs/base", "runs/pruned", "elsewhere/other"):
        (tmp_path / run).mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    assert offered(line, tmp_path) == wanted


def test_bash_is_offered_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    assert offered("fedx resume ", tmp_path) == []
    assert offered("fedx data ", tmp_path) == []
    (tmp_path / "params.yaml").write_text("datasets: [")
    assert offered("fedx data ", tmp_path) == []
