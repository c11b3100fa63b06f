"""``fedx sync``: MLflow gets what it lacks."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, RunRoot
from flows.settings import completion

if TYPE_CHECKING:
    from flows.runs.run_folder import RunFolder
    from flows.tracking.sync import Outcome


def sync(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Names of runs, or paths of their folders; all runs if none is given.",
            autocompletion=completion.runs,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Another tracking server or database; if not given, where the run's copies are.",
        ),
    ] = None,
    run_root: RunRoot = "runs",
    as_json: JsonObject = False,
) -> None:
    """Copy to MLflow what it lacks of runs: rounds, system metrics, files and models.

    Use it after MLflow was unreachable, or to fill another MLflow. Nothing is copied twice. A run
    that is still going can be copied too; the next call adds its new rounds.

        fedx sync base
        fedx sync --to http://mlflow.example.org:5000
    """
    from fedx_core.base.errors import TrackingError
    from flows.tracking.sync import sync as send

    outcomes: list[Outcome] = []
    for folder in _folders(Path(run_root), runs or []):
        for outcome in send(folder, to):
            outcomes.append(outcome)
            if not as_json:
                print(_line(outcome))
    if as_json:
        print(strict_json.dumps({"copies": [dataclasses.asdict(outcome) for outcome in outcomes]}))
    lacking = [outcome for outcome in outcomes if outcome.error]
    if lacking:
        first = lacking[0]
        raise TrackingError(
            f"{len(lacking)} of {len(outcomes)} copies lack something: MLflow at {first.uri} said "
            f"of run {first.run!r}: {first.error}; when it answers, `fedx sync` again"
        )


def _folders(root: Path, names: list[str]) -> "list[RunFolder]":
    from flows.runs.run_folder import RunFolder, find

    if names:
        return [RunFolder(Path(name)) if "/" in name else find(root, name) for name in names]
    return [RunFolder(path.parent.parent) for path in sorted(root.glob("*/results/rounds.json"))]


def _line(outcome: "Outcome") -> str:
    sent = {name: count for name, count in dataclasses.asdict(outcome.sent).items() if count}
    if outcome.error:
        what = f"not sent: {outcome.error}"
    elif sent:
        version = sent.pop("version", 0)
        parts = [f"{count} {name}" for name, count in sent.items()]
        parts += [f"model version {version}"] if version else []
        what = f"sent {', '.join(parts)}"
    else:
        what = "nothing was missing"
    return f"{outcome.run}: {what}; {outcome.page or outcome.uri}"
