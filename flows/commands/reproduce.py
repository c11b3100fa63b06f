"""``fedx reproduce``: the paper's numbers beside ours."""

from typing import Annotated, Literal

import typer

from flows.commands.options import JsonObject


def reproduce(
    what: Annotated[Literal["table1"], typer.Argument()],
    as_json: JsonObject = False,
) -> None:
    """Compute what the paper prints and show both.

    fedx reproduce table1
    """
    from flows import reproduce as paper

    print({"table1": paper.show_table1}[what](as_json))
