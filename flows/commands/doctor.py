"""``fedx doctor``: what a run needs and lacks."""

from pathlib import Path

import typer

from flows.commands.options import DataRoot, Params, RunRoot


def doctor(params: Params = None, run_root: RunRoot = "runs", data_root: DataRoot = None) -> None:
    """Check what a run needs, and say what to do about what is missing."""
    from flows import doctor as checks

    found = checks.examine(Path(params or "params.yaml"), Path(run_root), Path(data_root or "data"))
    for check in found:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.what}: {check.found}")
        if not check.ok:
            print(f"      {check.fix}")
    if not all(check.ok for check in found):
        raise typer.Exit(1)
