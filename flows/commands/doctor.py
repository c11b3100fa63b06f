"""``fedx doctor``: what a run needs and lacks."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from fedx_core.base import strict_json
from flows.base import exits
from flows.commands.options import DataRoot, JsonObject, Params, RunRoot, Store
from flows.data import describe
from flows.settings import completion


def doctor(
    params: Params = None,
    run_root: RunRoot = "runs",
    data_root: DataRoot = None,
    store: Store = None,
    site: Annotated[
        bool,
        typer.Option(
            "--site",
            help="Check what a site needs that trains for a coordinator: its folder is "
            "FEDX_SITE_HOME, its images are in FEDX_SHARDS.",
        ),
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Look at this data set alone, prepared or not: what it holds, and what is wrong.",
            autocompletion=completion.offering(completion.data_sets),
        ),
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """Check what a run needs, and say what to do about what is missing.

    With `--dataset` it looks at one data set alone. Where a coordinator's folder is
    (FEDX_COORDINATOR_HOME, or sites), it checks its keys and modes as well.

        fedx doctor
        fedx doctor --dataset eurosat
    """
    from flows.doctor import checks

    held: dict[str, Any] | None = None
    if dataset is not None:
        from flows.doctor import data_doctor

        found, held = data_doctor.examine(
            dataset, Path(params or "params.yaml"), Path(data_root or "data")
        )
    elif site:
        from fedx_core.sites.home import Home
        from flows.doctor import site as at_site
        from flows.sites.folders import shards, site_home

        found = at_site.examine(Home(site_home()), shards())
    else:
        from flows.doctor import site as at_site
        from flows.sites.folders import coordinator_home

        found = checks.examine(
            Path(params or "params.yaml"), Path(run_root), Path(data_root or "data"), store
        )
        found += at_site.examine_coordinator(coordinator_home())
    ok = all(check.ok for check in found)
    if as_json:
        about = {"summary": held} if held else {}
        checked = [dataclasses.asdict(check) for check in found]
        print(strict_json.dumps({"ok": ok, "checks": checked, **about}))
    else:
        if held:
            print("\n".join([*describe.lines({**held, "wrong": []}), ""]))
        for check in found:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.what}: {check.found}")
            if not check.ok and check.fix:
                print(f"      {check.fix}")
    if not ok:
        raise typer.Exit(exits.FAILED)
