"""What is wrong with an option, in our words: what it got, and what it takes."""

from typing import Any

import typer
from typer.core import TyperGroup

KINDS = {"int": "a whole number", "float": "a number"}
"""By what Typer's library of types calls them."""


class Group(TyperGroup):
    """Commands whose options, where they are wrong, say what they got."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what Typer tells of a value's type is said again."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = said(error)
            raise


def said(error: typer.BadParameter) -> str:
    """Return the text of an error about an option's value."""
    from pydantic import ValidationError  # slow, and there is no such error without it

    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return error.message
    first = cause.errors()[0]
    kind = KINDS.get(first["type"].partition("_")[0])
    if kind is None:
        return error.message.removeprefix("Value error, ")
    return f"must be {kind}, got {first['input']!r}."
