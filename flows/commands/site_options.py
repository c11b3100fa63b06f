"""Options that the commands of ``fedx site`` share."""

from typing import Annotated

import typer

SiteHome = Annotated[
    str,
    typer.Option(envvar="FEDX_SITE_HOME", help="The site's folder: keys, approvals, memory."),
]
CoordinatorHome = Annotated[
    str,
    typer.Option(
        envvar="FEDX_COORDINATOR_HOME",
        help="The coordinator's folder: its keys and the sites it has admitted.",
    ),
]
