"""``fedx init``: start a folder to work in."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject

FILES = {
    "params.yaml": "settings: data sets, model, training, method",
    "dvc.yaml": "stages of DVC, from raw images to a report",
    "prefect.yaml": "deployments for servers and workers of Prefect",
    ".gitignore": "keeps data and runs out of git",
}
KEPT_AS = {"dvc.yaml": "pipeline.yaml", ".gitignore": "gitignore"}
"""Names in the package of what git or DVC would take for its own there."""


def init(
    folder: Annotated[Path, typer.Argument(help="Made where it is missing.")] = Path(),
    as_json: JsonObject = False,
) -> None:
    """Create a working folder outside a clone: settings, DVC stages and Prefect deployments.

    Files that are there already stay as they are.

        fedx init
        fedx init ~/federation
    """
    from fedx_core.base.errors import StoreError

    source = Path(__file__).parents[1] / "project"
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = (source / KEPT_AS.get(name, name)).read_text(encoding="utf-8")
            try:
                with (folder / name).open("x", encoding="utf-8") as file:
                    file.write(text)
                written.append(name)
            except FileExistsError:
                pass
    except OSError as error:
        raise StoreError(
            f"can't start a folder at {folder}: {error.strerror or error}; choose another one"
        ) from error
    if as_json:
        print(strict_json.dumps({"folder": str(folder), "written": written}))
        return
    for name, what in FILES.items():
        done = f"{what}" if name in written else "was there already and stays"
        print(f"{name:<13} {done}")
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder}\n  "
    print(
        f"\nWhat now:\n  {there}fedx data synthetic\n  fedx run\n"
        "For stages and experiments of DVC: git init && dvc init",
        file=sys.stderr,
    )
