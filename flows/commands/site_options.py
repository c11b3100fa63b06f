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
RegistrarHome = Annotated[
    str | None,
    typer.Option(
        envvar="FEDX_REGISTRAR_HOME",
        help="Folder of the registrar's keys, where the coordinator has a registrar.",
    ),
]
ValidDays = Annotated[int, typer.Option(min=0, help="Days until the new keys expire; 0 never.")]
