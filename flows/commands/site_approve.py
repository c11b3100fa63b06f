"""``fedx site approve``: people read what a plan does with their data, and agree or not."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject
from flows.commands.site_options import SiteHome

if TYPE_CHECKING:
    from fedx_core.sites.approvals import Asked, Unreadable


def approve(
    plan: Annotated[
        str | None,
        typer.Argument(help="First digits of the plan's hash. [default: all that wait]"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve PLAN without being asked.")] = False,
    withdraw: Annotated[bool, typer.Option(help="Withdraw the approval of PLAN.")] = False,
    site_home: SiteHome = "site",
    as_json: JsonObject = False,
) -> None:
    """Read the plans that the coordinator asks this site to follow, and approve them or not.

    A plan says all that is computed and sent. Agreeing covers every round that follows it; any
    other setting is another plan, and asks again.

        fedx site approve
        fedx site approve 3f9a1c20b7d4 --yes
    """
    from fedx_core.rounds import audit
    from fedx_core.sites.approvals import Asked, Unreadable
    from fedx_core.sites.home import Home

    if (yes or withdraw) and plan is None:
        raise typer.BadParameter(
            "--yes and --withdraw take the hash of one plan; read it first with `fedx site approve`"
        )
    home = Home(Path(site_home))
    _ = home.keys
    approvals = home.approvals

    def agree(asked: Asked) -> None:
        approvals.approve(asked.sha256)
        audit.note(home.folder, "approved", plan=asked.sha256, run=asked.job.run)

    if withdraw and plan is not None:
        sha256 = approvals.agreed(plan)
        approvals.withdraw(sha256)
        audit.note(home.folder, "withdrawn", plan=sha256)
        print(
            strict_json.dumps({"withdrawn": sha256})
            if as_json
            else f"{sha256[:12]} is not followed."
        )
        return
    waiting = [approvals.find(plan)] if plan else list(approvals.asked())
    read = [_read(asked) for asked in waiting]
    if as_json:
        told = [
            {"plan": asked.sha256, "unreadable": asked.why}
            if isinstance(asked, Unreadable)
            else {"plan": asked.sha256, "run": asked.job.run, "said": said}
            for asked, said in read
        ]
        if yes and isinstance(read[0][0], Asked):
            agree(read[0][0])
        print(strict_json.dumps({"waiting": told, "approved": list(approvals.approved())}))
        return
    for asked, said in read:
        print(f"plan    {asked.sha256}\n{said}\n")
        if isinstance(asked, Unreadable):
            continue
        if yes or _agreed(asked.sha256):
            agree(asked)
            print(f"{asked.sha256[:12]} is agreed to; the coordinator's next attempt is answered.")
    if not waiting:
        print(f"No plan waits; {len(approvals.approved())} agreed to.")


def _read(asked: "Asked | Unreadable") -> "tuple[Asked | Unreadable, str]":
    """Say what a plan does; one that can't be followed is unreadable, and the others are not."""
    from fedx_core.base.errors import FedXError
    from fedx_core.sites.approvals import Asked, Unreadable, describe

    if isinstance(asked, Asked):
        try:
            return asked, describe(asked.plan, asked.job)
        except FedXError as error:
            asked = Unreadable(asked.sha256, f"this site can't follow it ({error})")
    return asked, f"can't be read, so nobody can agree to it: {asked.why}"


def _agreed(sha256: str) -> bool:
    if not sys.stdin.isatty():
        print(f"To agree: fedx site approve {sha256[:12]} --yes")
        return False
    return typer.confirm("May this be done with the data of this site?")
