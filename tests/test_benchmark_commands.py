"""The commands that benchmarks' texts give are ones that FedX and the benchmarks take."""

import ast
import textwrap
from pathlib import Path

import pytest

from fedx_core.base import config
from mentioned import ROOT, check_command, commands


def shown(script: Path) -> list[list[str]]:
    """Return the commands in a script's own text, whose lines are indented."""
    text = ast.get_docstring(ast.parse(script.read_text())) or ""
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    found = commands(textwrap.dedent("\n".join(indented)))
    return [words for words in found if words[0] in ("fedx", "python")]


SCRIPTS = {s.stem: s for s in sorted((ROOT / "benchmarks").glob("*.py")) if shown(s)}


def test_some_are_found() -> None:
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_commands_of_a_benchmarks_text_are_taken(name: str) -> None:
    for words in shown(SCRIPTS[name]):
        # `[--option VALUE]` says what else there is.
        optional = next((at for at, word in enumerate(words) if word.startswith("[")), len(words))
        check_command(words[:optional], f"{name}.py")
        if words[:2] == ["fedx", "data"]:
            assert words[2] in config.load(ROOT / "params.yaml").datasets
