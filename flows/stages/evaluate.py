"""Stage ``evaluate``: score the experiment's final model on the test split, by itself.

python -m flows.stages.evaluate [--data-root data] [--experiment experiment]

It reads the model's file alone, as anybody who is given that file would, so a model that scores
otherwise than its run said would show here.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedx_core.base import cores, strict_json
from fedx_core.base.config import load
from fedx_core.base.errors import DataError, FedXError
from fedx_core.images import set_folder
from fedx_core.learning import evaluation
from fedx_core.learning.training import pick_device
from fedx_core.predict import model_file
from flows.base.csv_text import csv_text
from flows.comparing import compare
from flows.runs.record import Record, read
from flows.runs.rows import MIB
from flows.runs.run_folder import RunFolder, write


def evaluate(experiment: Path, data_root: Path) -> Path:
    """Score a model: ``metrics.json``, and ``evaluate/`` with what DVC draws.

    That are scores by round and by class, and the confusion of single labels.

    Args:
        experiment: the folder in which the stage ``federate`` left its own.
        data_root: folder of all data sets.

    Returns:
        The file with the metrics.

    Raises:
        FedXError: the model or the data can't be used, or do not fit.
    """
    folder = RunFolder(experiment / "federate")
    settings = load(folder.config)
    prepared = set_folder.read(data_root / settings.dataset / "prepared")
    model, card = model_file.read(folder.model)
    names = prepared.description.class_names
    if (card.class_names, card.bands) != (names, prepared.description.bands):
        raise DataError(
            f"{folder.model} was trained on {card.dataset} ({len(card.bands)} bands, "
            f"{len(card.class_names)} classes), {settings.dataset} has other bands or classes; "
            "repeat the stage federate"
        )
    test = prepared.parts["test"]
    logits = evaluation.predict(
        model,
        test,
        pixels=card.pixels,
        batch_size=settings.training.eval_batch_size,
        device=pick_device(settings.training.device),
        workers=cores.allowed(),
        tallied=card.label_kind == "pixels",
    )
    scores = evaluation.per_class(logits, test.labels, card.label_kind)
    # A class without a test image keeps its line; its score is blank.
    table = [("class", "score"), *zip(names, scores, strict=True)]
    write(experiment / "evaluate" / "classes.csv", _csv(table))
    if card.label_kind == "single":
        guesses = [names[guess] for guess in logits.argmax(1).tolist()]
        pairs = zip((names[label] for label in test.labels), guesses, strict=True)
        write(experiment / "evaluate" / "confusion.csv", _csv([("actual", "predicted"), *pairs]))
    record = read(folder)
    write(experiment / "evaluate" / "rounds.csv", _csv(_curves(record)))
    scored = evaluation.metrics(logits, test.labels, card.label_kind)
    missing = evaluation.left_out(scored)
    found = {
        "test": scored,
        **({"left_out": missing} if missing else {}),
        **_cost(record),
    }
    metrics = experiment / "metrics.json"
    write(metrics, strict_json.dumps(found, indent=1).encode() + b"\n")
    return metrics


def _curves(record: Record) -> list[tuple[Any, ...]]:
    """Put score, bytes and sparsity of each round into a row, named alike for all labels."""
    metric = compare.metric_of(record.reports)
    table: list[tuple[Any, ...]] = [("round", "score", "mib", "sparsity")]
    sent = 0.0
    for report in record.reports:
        sent += report.wire_bytes / MIB
        table.append((report.round_index, report.metrics.get(metric), sent, report.sparsity))
    return table


def _cost(record: Record) -> dict[str, Any]:
    """Sum up what the rounds cost: both ledgers, apart."""
    reports = record.reports
    return {
        "rounds": reports[-1].round_index,
        "sparsity": reports[-1].sparsity,
        "wire_bytes": sum(report.wire_bytes for report in reports),
        "paper_bytes": sum(report.paper_bytes for report in reports),
    }


def _csv(rows: Iterable[tuple[Any, ...]]) -> bytes:
    return csv_text(rows).encode()


def main() -> int:
    """Run the stage from the command line; errors go to stderr, with exit code 1."""
    parser = argparse.ArgumentParser(description="Score the experiment's final model.")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--experiment", type=Path, default=Path("experiment"))
    options = parser.parse_args()
    try:
        print(evaluate(options.experiment, options.data_root))
    except FedXError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
