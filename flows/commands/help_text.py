"""Help as it is read: a command's docstring, its examples line by line.

Typer cleans what stands below a docstring's first paragraph once more, as a docstring of its own,
and so takes the indentation of examples for that of the text where a single line stands above
them: they then run on as a paragraph. Between fences they stay what they are.
"""

import inspect
import re
from textwrap import dedent

import typer

_INDENTED = re.compile(r"(?:^ {4}.*(?:\n|$))+", re.MULTILINE)


def keep_examples(app: typer.Typer) -> None:
    """Give every command of an app, and of the apps in it, its help with fenced examples."""
    for command in app.registered_commands:
        command.help = fenced(command.help or inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            keep_examples(group.typer_instance)


def fenced(text: str) -> str:
    """Put indented lines between fences.

    Args:
        text: Markdown whose own lines begin at the margin.
    """
    return _INDENTED.sub(lambda block: f"```\n{dedent(block[0]).rstrip()}\n```\n", text)
