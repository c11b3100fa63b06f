"""``fedx backup`` and ``fedx restore``: runs, keys and numbers in one file, and back again."""

from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, RunRoot, Store
from flows.commands.site_options import CoordinatorHome, SiteHome
from flows.settings import completion

Mlflow = Annotated[str, typer.Option(metavar="FILE", help="MLflow's SQLite file.")]


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="A run to back up; may be repeated. [default: all of --run-root]",
            autocompletion=completion.runs,
        ),
    ] = None,
    run_root: RunRoot = "runs",
    store: Store = None,
    coordinator_home: CoordinatorHome = "sites",
    site_home: SiteHome = "site",
    mlflow: Mlflow = "mlflow.db",
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave the secret keys out.")
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Back up runs, the folders of a coordinator and a site, and MLflow's database in one file.

    Of each run it keeps the folder and the store, on disk or in S3. Parts that don't exist are left
    out and named. A run that is going is refused: `fedx stop` it first. The file holds secret keys
    unless --without-keys is given; only its owner may read it. It is a ZIP with the SHA-256 of each
    file in it.

        fedx backup monday.zip
        fedx backup base.zip --run base --without-keys
    """
    from flows.backup.gather import Wanted, back_up

    kept = back_up(
        file,
        Wanted(
            runs=tuple(run or ()),
            run_root=Path(run_root),
            store=store,
            coordinator=Path(coordinator_home),
            site=Path(site_home),
            mlflow=Path(mlflow),
            with_keys=not without_keys,
        ),
    )
    if as_json:
        told = {
            "file": str(file),
            "bytes": kept.size,
            "files": kept.files,
            "runs": kept.runs,
            "others": [str(path) for path in kept.others],
            "keys": [str(path) for path in kept.keys],
            "left_out": kept.left_out,
        }
        print(strict_json.dumps(told))
        return
    print(f"{file}: {kept.files} files, {kept.size:,} bytes")
    print(f"  runs: {', '.join(kept.runs) or 'none'}")
    for path in kept.others:
        print(f"  {path}")
    for said in kept.left_out:
        print(f"  without {said}")
    if kept.keys:
        print(
            f"It holds secret keys ({', '.join(map(str, kept.keys))}): whoever reads it can pass "
            "for their owner. Keep it as you keep passwords, or leave them out with --without-keys"
        )


def restore(
    file: Annotated[Path, typer.Argument(help="That `fedx backup` has written.")],
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for everything, as runs, sites, site and mlflow.db; where the other "
            "options say if not given.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="A run to restore; may be repeated. [default: all]"),
    ] = None,
    run_root: RunRoot = "runs",
    store: Store = None,
    coordinator_home: CoordinatorHome = "sites",
    site_home: SiteHome = "site",
    mlflow: Mlflow = "mlflow.db",
    as_json: JsonObject = False,
) -> None:
    """Restore a backup: all of it or nothing, and never over files that exist.

    Every byte is checked against its SHA-256 first. A run whose store was shared, as in S3, gets it
    in --store, or in its own folder if none is named. Then `fedx resume` goes on with it.

        fedx restore monday.zip
        fedx restore monday.zip --run base --into elsewhere
    """
    from flows.backup.restore import Places
    from flows.backup.restore import restore as put_back

    places = (
        Places.below(into)
        if into is not None
        else Places(
            run_root=Path(run_root),
            store=store,
            coordinator=Path(coordinator_home),
            site=Path(site_home),
            mlflow=Path(mlflow),
        )
    )
    done = put_back(file, places, tuple(run or ()))
    if as_json:
        told = {
            "files": done.files,
            "places": [str(path) for path in done.places],
            "stores": done.stores,
        }
        print(strict_json.dumps(told))
        return
    print(f"{file}: {done.files} files are back in")
    for path in done.places:
        print(f"  {path}")
    for name, uri in done.stores.items():
        print(f"  {name} has its store in {uri}")
