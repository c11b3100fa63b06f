"""``fedx site approve``: people read what a plan does with their data, and agree or not."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedx_core import strict_json
from flows.commands.options import JsonObject
from flows.commands.site_options import SiteHome


def approve(
    plan: Annotated[
        str | None,
        typer.Argument(help="First digits of its hash; all that wait if not given."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to PLAN without being asked.")] = False,
    withdraw: Annotated[bool, typer.Option(help="Agree to PLAN no longer.")] = False,
    site_home: SiteHome = "site",
    as_json: JsonObject = False,
) -> None:
    """Read the plans that the coordinator asks this site to follow, and agree to them or not.

    A plan says all that is computed and sent. Agreeing covers every round that follows it; any
    other setting is another plan, and asks again.

        fedx site approve
        fedx site approve 3f9a1c20b7d4 --yes
    """
    from fedx_core.sites import audit
    from fedx_core.sites.approvals import Asked, describe
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
    if as_json:
        told = [
            {"plan": a.sha256, "run": a.job.run, "said": describe(a.plan, a.job)} for a in waiting
        ]
        if yes:
            agree(waiting[0])
        print(strict_json.dumps({"waiting": told, "approved": list(approvals.approved())}))
        return
    for asked in waiting:
        print(f"plan    {asked.sha256}\n{describe(asked.plan, asked.job)}\n")
        if yes or _agreed(asked.sha256):
            agree(asked)
            print(f"{asked.sha256[:12]} is agreed to; the coordinator's next attempt is answered.")
    if not waiting:
        print(f"No plan waits; {len(approvals.approved())} agreed to.")


def _agreed(sha256: str) -> bool:
    if not sys.stdin.isatty():
        print(f"To agree: fedx site approve {sha256[:12]} --yes")
        return False
    return typer.confirm("May this be done with the data of this site?")
