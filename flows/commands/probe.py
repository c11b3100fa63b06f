"""``fedx probe``: what a run's encoder is worth downstream."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedx_core.base import strict_json
from flows.commands.options import DataRoot, JsonObject, RunName, RunRoot, TrackWith
from flows.settings import completion

if TYPE_CHECKING:
    from flows.runs.probe import Probe
    from flows.runs.run_folder import RunFolder


def probe(
    run: RunName,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Prepared data set with the bands of the training; the run's own if not given.",
            autocompletion=completion.offering(completion.data_sets),
        ),
    ] = None,
    labels: Annotated[
        list[float] | None,
        typer.Option(
            metavar="PERCENT",
            help="Share of the training labels for few-shot learning, in percent; give it several "
            "times for several, 0 for none. [default: 1 and 10]",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each share.")] = 3,
    epochs: Annotated[
        int,
        typer.Option(
            min=0, help="Of fine-tuning on few labels; 0 leaves it out, which is much quicker."
        ),
    ] = 100,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")
    ] = "auto",
    run_root: RunRoot = "runs",
    data_root: DataRoot = None,
    track: TrackWith = "mlflow",
    as_json: JsonObject = False,
) -> None:
    """Say what a run's encoder is worth: a linear probe, nearest neighbours, and few labels.

    The encoder is frozen, and its features are classified by logistic regression and by their 20
    nearest neighbours; then it is fine-tuned on 1 % and on 10 % of the labels. A random encoder of
    the same architecture stands beside it: only what lies above that was learned. Labels of the
    training split are learned, the validation split chooses, the test split judges.

    Runs with and without labels can be probed, also while they go on. The result is kept in
    results/probe-NAME.json of the run, shown by fedx report, and sent to where the run's MLflow is.

        fedx probe encoder
        fedx probe encoder --dataset eurosat --epochs 0
        fedx probe encoder --labels 5 --labels 25 --draws 5
    """  # fmt: skip
    from dataclasses import asdict

    from fedx_core.base.errors import ConfigError
    from fedx_core.predict.probe import Settings
    from flows.runs import probe as probing
    from flows.runs import run_folder

    folder = run_folder.find(Path(run_root), run)
    percents = [1.0, 10.0] if labels is None else [percent for percent in labels if percent]
    if not all(0 < percent < 100 for percent in percents):
        raise ConfigError(f"--labels must lie between 0 and 100 percent, got {percents}")
    settings = Settings(
        shares=tuple(sorted({percent / 100 for percent in percents})), draws=draws, epochs=epochs
    )
    made, path = probing.carry_out(folder, dataset, data_root, settings, device)
    if as_json:
        table = [{**asdict(line), "gain": line.gain} for line in probing.lines(made)]
        print(strict_json.dumps({"file": str(path), "probe": asdict(made), "table": table}))
    else:
        print(_shown(made))
        print(path)
    if track == "mlflow" and folder.notes().get("mlflow"):
        _send(folder)


def _shown(made: "Probe") -> str:
    from flows.report.probes import table

    return f"{table(made).title}\n\n{table(made).as_text()}\n"


def _send(folder: "RunFolder") -> None:
    from flows.tracking.sync import sync

    for outcome in sync(folder):
        if outcome.error:
            print(
                f"warning: MLflow at {outcome.uri} lacks the probe: {outcome.error}; when it "
                f"answers, `fedx sync {folder.name}`",
                file=sys.stderr,
            )
