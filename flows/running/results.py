"""What a run leaves: numbers, a figure, what was pruned and why, and the model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedx_core.base import strict_json
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.frozen_json import plain
from fedx_core.base.state import as_section
from fedx_core.images import set_folder
from fedx_core.learning import evaluation
from fedx_core.predict import model_file
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Evidence
from fedx_core.rounds import federation
from fedx_core.store import Store, open_store
from fedx_core.wire.messages import RoundReport
from flows.base.csv_text import csv_text
from flows.runs.rows import Row, ratio, rows
from flows.runs.run_folder import RunFolder, write


def write_rounds(
    folder: RunFolder, reports: Sequence[RoundReport], encoded: list[str] | None = None
) -> None:
    """Write ``rounds.csv`` and ``rounds.json``, which has a line per round.

    Args:
        folder: of the run.
        reports: of all its rounds so far.
        encoded: lines of the first of them, which an earlier call has left here; those of the
            others are added. To encode a round of 1,000 clients takes some 20 ms.
    """
    table = rows(reports)
    # A pruning round has columns that others lack; they go beside their kin, not to the end.
    widest: Row = max(table, key=len, default={})
    names = list(widest)
    names += [name for row in table for name in row if name not in names]
    names = list(dict.fromkeys(names))
    text = csv_text([names, *([row.get(name) for name in names] for row in table)])
    write(folder.results / "rounds.csv", text.encode())
    lines = [] if encoded is None else encoded
    lines += [strict_json.dumps(plain(report)) for report in reports[len(lines) :]]
    write(folder.results / "rounds.json", "[\n{}\n]\n".format(",\n".join(lines)).encode())


def summary(
    settings: ExperimentConfig, reports: Sequence[RoundReport], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Say in few numbers what came of a run."""
    last = reports[-1]
    pruned = [report for report in reports if report.pruned]
    method = settings.method
    return {
        **about,
        "dataset": settings.dataset,
        "model": settings.model.name,
        "method": method.name,
        "relevance": dict(method.params.get("relevance", {})).get("name"),
        "pruning_rate": method.params.get("pruning_rate"),
        "seed": settings.seed,
        "rounds": last.round_index,
        "stopped": {"round": last.round_index, "why": last.stopped} if last.stopped else None,
        "metrics": dict(last.metrics),
        "left_out": evaluation.left_out(last.metrics),
        "best": _best(settings, reports),
        "pruning_events": [
            {
                "round": report.round_index,
                "metrics_before": dict(report.metrics_before_pruning),
                "metrics_after": dict(report.metrics),
            }
            for report in pruned
        ],
        "sparsity": last.sparsity,
        "wire_bytes": {
            "downlink": sum(r.downlink_bytes for r in reports),
            "uplink": sum(r.uplink_bytes for r in reports),
            "mask": sum(r.mask_bytes for r in reports),
            "retry": sum(r.retry_bytes for r in reports),
            "total": sum(r.wire_bytes for r in reports),
        },
        "wire_ratio": asdict(ratio(reports)),
        "evaluation_bytes": sum(r.evaluation_bytes for r in reports),
        "paper_bytes": sum(r.paper_bytes for r in reports),
        "seconds": sum(sum(r.seconds.values()) for r in reports),
        "failures": sum(len(r.failures) for r in reports),
        "per_class": dict(last.per_class),
        "per_client": {client: dict(found) for client, found in last.per_client.items()},
    }


def _best(settings: ExperimentConfig, reports: Sequence[RoundReport]) -> dict[str, Any] | None:
    """Name the best round by validation, and its test metrics; None where rounds aren't judged."""
    choice, best_round = settings.federation.selection, reports[-1].best_round
    if choice is None or not best_round:
        return None
    best = next(report for report in reports if report.round_index == best_round)
    return {
        "round": best_round,
        "metric": choice.metric,
        "value": best.validation.get(choice.metric),
        "metrics": dict(best.metrics),
    }


def write_figure(folder: RunFolder, reports: Sequence[RoundReport]) -> None:
    """Draw ``accuracy.svg``: accuracy per round, and against what crossed the network."""
    # Matplotlib takes half a second to import, so it waits until there is something to draw.
    from flows.figures import accuracy, style

    write(folder.results / "accuracy.svg", style.as_svg(accuracy({folder.name: reports})))


def write_summary(folder: RunFolder, found: Mapping[str, Any]) -> None:
    """Write ``summary.json``."""
    write(folder.results / "summary.json", _json(found))


def write_model(folder: RunFolder, store: str, data: Path) -> None:
    """Write the final model, and the best one by validation where rounds are judged.

    Both are safetensors, which ``model.weights`` takes to start from, and say how to use them.

    Args:
        folder: of the run.
        store: URI of its store.
        data: folder of the data set that it was trained on.
    """
    opened = open_store(store)
    journal, description = Journal(opened), set_folder.read(data / "prepared", "test").description
    last = journal.commits()[-1].report
    card = model_file.card_of(journal, description, last.round_index)
    write(folder.model, model_file.pack(federation.final_model(opened), card))
    if (best := federation.best_model(opened)) is not None:
        card = model_file.card_of(journal, description, last.best_round)
        write(folder.best, model_file.pack(best, card))


def write_pruning(folder: RunFolder, store: str, reports: Sequence[RoundReport]) -> None:
    """Write ``pruning/NNNN.safetensors`` of each round with a pruning event.

    Entries are ``before/<entry>`` (the model that was pruned), ``scores/<layer>`` (float32, one a
    unit) and ``kept/<layer>`` (uint8, 1 = kept; by parameter where the method's mask is).

    Args:
        folder: of the run.
        store: URI of the run's store.
        reports: of the rounds to look at.
    """
    opened = open_store(store)
    for round_index in (report.round_index for report in reports if report.pruned):
        commit = Journal(opened).committed(round_index)
        if commit is not None and commit.evidence is not None:
            path = folder.pruning / f"{round_index:04d}.safetensors"
            write(path, _event(opened, commit.evidence))


def _event(store: Store, evidence: Evidence) -> bytes:
    before = checkpoint.unpack_server_state(store.get(evidence.before))
    tensors, about = checkpoint.unpack_state(store.get(evidence.scores))
    order = {"before": list(before.model), **about["order"]}
    return checkpoint.pack_state(
        {**as_section(before.model, "before"), **tensors}, {**about, "order": order}
    )


def write_clients(folder: RunFolder, data: Path, shards: Path, dataset: str) -> None:
    """Write ``clients.json``: who the clients are, and how many images of what they hold.

    Sites that keep their data to themselves have counted nothing; then there is no such file.

    Args:
        folder: of the run.
        data: folder of the data set, with ``prepared`` in it.
        shards: folder of the clients' shards.
        dataset: its key in the settings.
    """
    clients = set_folder.read_manifest(shards)["clients"]
    if not all("labels" in client for client in clients):
        return
    about = set_folder.read_manifest(data / "prepared")["description"]
    found = {
        "dataset": dataset,
        **{name: about[name] for name in ("label_kind", "class_names", "group_names")},
        "clients": [{"groups": {}, **client} for client in clients],
    }
    write(folder.counts, _json(found))


def _json(value: Any) -> bytes:
    return strict_json.dumps(value, indent=1).encode() + b"\n"
