"""What MLflow holds of a run, as pure functions of the record.

Metric names: ``test/``, ``validation/`` and ``before_pruning/`` scores, ``train/loss``,
``method/`` for the method's own, ``sparsity`` of the model and ``layer_sparsity/`` (share of units)
by layer, the two ledgers ``wire/`` and ``paper/`` with running totals in MiB at the same steps,
``seconds/`` by part of the round, ``probe/<data set>/`` of ``fedx probe``, ``system/`` for the
machine. Step = round, or the sample's number for ``system/``.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

from fedx_core.base import config, strict_json
from fedx_core.base.config import ExperimentConfig
from fedx_core.wire.messages import RoundReport, Traffic
from flows.runs import probe
from flows.runs.monitor import Sample
from flows.runs.probe import Probe
from flows.runs.rows import MIB, ratios

LONGEST = 500
"""Characters of a parameter; longer ones are cut, and ``config.yaml`` has them whole."""

LAST_OF_ROUND = "sparsity"
LAST_OF_SAMPLE = "system/cpu_utilization_percentage"
"""Metrics that every round or sample has, sent last: where one is there, all of its step are."""

_FORBIDDEN = re.compile(r"[^\w.\- :/]")


class Point(NamedTuple):
    """One value of one metric, in the order of MLflow's ``Metric``."""

    key: str
    value: float
    timestamp: int
    step: int


def flat_parameters(settings: ExperimentConfig) -> dict[str, str]:
    """Return the settings by dotted path, such as ``method.pruning_rate``; one data set only."""
    values = config.as_plain(settings)
    values["data"] = values.pop("datasets")[settings.dataset]
    values.pop("prepare", None)
    flat: dict[str, str] = {}

    def walk(block: Mapping[str, Any], prefix: str) -> None:
        for key, value in block.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{key}.")
            else:
                flat[named(f"{prefix}{key}")] = _cut(str(value))

    walk(values, "")
    return flat


def round_metrics(report: RoundReport) -> dict[str, float]:
    """Return one round's numbers by MLflow's names; the two ledgers stand apart."""
    numbers: dict[str, float] = {
        **{f"test/{name}": value for name, value in report.metrics.items()},
        **{f"validation/{name}": value for name, value in report.validation.items()},
        **{f"before_pruning/{n}": value for n, value in report.metrics_before_pruning.items()},
        "train/loss": report.train_loss,
        **{f"method/{name}": value for name, value in report.method_metrics.items()},
        **{
            f"layer_sparsity/{layer}": 1 - kept / units
            for layer, (kept, units) in report.units_kept.items()
        },
        "clients/failed": len(report.failures),
        "wire/downlink_bytes": report.downlink_bytes,
        "wire/uplink_bytes": report.uplink_bytes,
        "wire/mask_bytes": report.mask_bytes,
        "wire/retry_bytes": report.retry_bytes,
        "wire/total_bytes": report.wire_bytes,
        "wire/evaluation_bytes": report.evaluation_bytes,
        "wire/round_mib": report.wire_bytes / MIB,
        "paper/bytes": report.paper_bytes,
        "paper/round_mib": report.paper_bytes / MIB,
        **{f"seconds/{step}": value for step, value in report.seconds.items()},
        LAST_OF_ROUND: report.sparsity,
    }
    return {named(name): float(v) for name, v in numbers.items() if math.isfinite(v)}


def round_points(
    reports: Sequence[RoundReport], began: datetime, present: Iterable[int]
) -> Iterator[Point]:
    """Return the points of all rounds but those present, in order.

    Args:
        reports: of all rounds, from the first.
        began: when the run did. A round's time is that and the seconds of all rounds up to it: the
            record knows durations, and equal records have to give equal points.
        present: rounds that MLflow has.
    """
    skip = set(present)
    wire = paper = seconds = 0.0
    for report, fewer in zip(reports, ratios(reports), strict=True):
        wire += report.wire_bytes
        paper += report.paper_bytes
        seconds += sum(report.seconds.values())
        if report.round_index in skip:
            continue
        numbers = {
            "wire/cumulative_mib": wire / MIB,
            **{f"wire/ratio_{way}": n for way, n in asdict(fewer).items() if n is not None},
            "paper/cumulative_mib": paper / MIB,
            **round_metrics(report),
        }
        at = round((began.timestamp() + seconds) * 1000)
        for name, value in numbers.items():
            yield Point(name, value, at, report.round_index)


def probe_points(
    probes: Iterable[Probe],
    reports: Sequence[RoundReport],
    began: datetime,
    latest: Mapping[str, float],
) -> Iterator[Point]:
    """Return the points of probes, at the time of the round whose encoder they looked at.

    Args:
        probes: of the run.
        reports: of all its rounds.
        began: when the run did.
        latest: values that MLflow has; those that are equal are left out.
    """
    for made in probes:
        past = [r for r in reports if r.round_index <= made.round_index]
        seconds = sum(sum(report.seconds.values()) for report in past)
        at = round((began.timestamp() + seconds) * 1000)
        for name, value in probe.metrics(made):
            if latest.get(named(name)) != value:
                yield Point(named(name), value, at, made.round_index)


def sample_points(samples: Iterable[Sample]) -> Iterator[Point]:
    """Return the points of samples of the machine, in order."""
    for sample in samples:
        numbers = {f"system/{name}": value for name, value in sample.values.items()}
        last = numbers.pop(LAST_OF_SAMPLE)
        for name, value in {**numbers, LAST_OF_SAMPLE: last}.items():
            yield Point(named(name), value, round(sample.time * 1000), sample.index)


def client_table(reports: Sequence[RoundReport]) -> str:
    """Return one row per client and round, as JSON that MLflow's pages show as a table."""
    kinds = ("downlink", "uplink", "mask", "retry", "evaluation")
    rows: list[list[Any]] = []
    for report in reports:
        lost = {failure.client: failure.reason for failure in report.failures}
        scored = [client for client in report.traffic if client not in report.cohort]
        for client in (*report.cohort, *scored):
            said = report.client_metrics.get(client, {})
            sent = report.traffic.get(client, Traffic())
            rows.append(
                [
                    report.round_index,
                    client,
                    *(said.get(name) for name in ("examples", "train_loss", "seconds")),
                    *(getattr(sent, kind) for kind in kinds),
                    "" if client in said else lost.get(client, ""),
                ]
            )
    columns = ["round", "client", "examples", "train_loss", "seconds"]
    columns += [*(f"{kind}_bytes" for kind in kinds), "lost"]
    return strict_json.dumps({"columns": columns, "data": rows})


def named(text: str) -> str:
    """Replace characters that MLflow takes in no name, such as commas and brackets."""
    return _FORBIDDEN.sub("_", text)


def _cut(text: str) -> str:
    mark = " ... (cut; config.yaml has all)"
    return text if len(text) <= LONGEST else text[: LONGEST - len(mark)] + mark
