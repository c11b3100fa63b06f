"""The commands that benchmarks' texts give to prepare their data are ones that FedX takes."""

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedx_core.base import config, plugins
from flows.commands.options import setting

ROOT = Path(__file__).parent.parent


def commands() -> Iterator[str]:
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip().startswith("fedx data "):
                yield line.strip()


def test_some_are_found() -> None:
    assert len(set(commands())) > 2


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_names_a_data_set_and_settings_that_there_are(command: str) -> None:
    words = shlex.split(command, comments=True)
    given = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    settings = config.load(ROOT / "params.yaml", dict(setting(text) for text in given))
    dataset = settings.datasets[words[2]]
    dataset.partition.build("partition")
    assert dataset.source.name in plugins.names("data")
