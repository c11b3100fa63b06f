"""Help on a terminal: every example stands on a line of its own."""

import inspect
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import EXAMPLES, app
from flows.commands.help_text import fenced, keep_examples


def commands(within: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Name every command, with the docstring that its help is made of."""
    for command in within.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield " ".join([*path, name]), inspect.getdoc(command.callback) or ""
    for group in within.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*path, str(group.name)))


def examples(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.startswith("    ") and line.strip()]


COMMANDS = dict(commands(app))


def shown(command: str) -> list[str]:
    done = CliRunner().invoke(
        app, [*command.split(), "--help"], prog_name="fedx", env={"COLUMNS": "120", "TERM": "dumb"}
    )
    assert done.exit_code == 0
    return [line.strip() for line in done.output.splitlines()]


def test_most_commands_have_examples() -> None:
    taught = [name for name, text in COMMANDS.items() if examples(text)]
    assert len(taught) > len(COMMANDS) / 2
    assert {"run", "data", "compare", "site trust"} <= set(taught)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_each_example_of_a_commands_help_stands_on_a_line_of_its_own(command: str) -> None:
    lines = shown(command)
    for example in examples(COMMANDS[command] if command else EXAMPLES):
        assert example in lines
    assert not [line for line in lines if "```" in line]


@pytest.mark.parametrize("above", ["A single line.", "Two lines\n    of text.", "One.\n\n    Two."])
def test_examples_stay_lines_whatever_paragraph_stands_above_them(above: str) -> None:
    def other() -> None: ...
    def taught() -> None: ...

    taught.__doc__ = f"Say it.\n\n    {above}\n\n        fedx a\n        fedx b\n    "
    outer, inner = (typer.Typer(rich_markup_mode="markdown") for _ in range(2))
    for command in (taught, other):
        inner.command()(command)
    outer.add_typer(inner, name="inner")
    keep_examples(outer)
    done = CliRunner().invoke(outer, ["inner", "taught", "--help"], env={"TERM": "dumb"})
    assert {"fedx a", "fedx b"} <= {line.strip() for line in done.output.splitlines()}


def test_every_line_that_calls_fedx_is_indented_and_so_an_example() -> None:
    for name, text in COMMANDS.items():
        at_the_margin = [line for line in text.splitlines() if line.startswith("fedx ")]
        assert not at_the_margin, name


def test_fences_go_around_indented_lines_and_nothing_else() -> None:
    assert fenced("Say so.\n\n    fedx a\n      b\n    fedx c") == (
        "Say so.\n\n```\nfedx a\n  b\nfedx c\n```\n"
    )
    assert fenced("One line.\n\nA paragraph\nof two.") == "One line.\n\nA paragraph\nof two."
