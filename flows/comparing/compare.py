"""Runs side by side: one row of plain numbers per run, and what stands against comparing them.

Five definitions, so that a number means one thing wherever it is shown:

    mib_to_X      MiB on the wire, both directions and all clients, up to and with the first round
                  whose score at its end (after its pruning) is X or better; None where there is
                  none. rounds_to_X is that round.
    equal_bytes   score of the last round by which a run had sent no more bytes than the run that
                  sent fewest of those compared.
    ratio_*       how many times fewer bytes than FedAvg in float32 would have sent in the same
                  rounds to and from the same clients, retries apart
                  (:class:`flows.runs.rows.Ratio`).
    validation    the same score of the tuning images after the last round, where rounds are judged
                  (``federation.selection``): what settings are chosen by.
    best          score of the round that the tuning images chose, or else the best test score,
                  which is too optimistic.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedx_core.base import config, plugins
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError
from fedx_core.learning.evaluation import LOWER_IS_BETTER, NO_LABEL, PRIMARY, left_out
from fedx_core.wire.messages import RoundReport
from flows.runs.record import Record
from flows.runs.rows import MIB, ratio

Row = dict[str, Any]

NAMED = (
    "dataset", "seed", "model.name", "method.name", "method.relevance.name", "method.pruning_rate",
)  # fmt: skip
"""Settings that have a column of their own."""


def rows(
    records: Sequence[Record], metric: str | None = None, targets: Sequence[float] = ()
) -> list[Row]:
    """Put each run into one row.

    Args:
        records: at least one run, with a finished round each.
        metric: of the test set; None takes the one that the paper reports for the first run's kind
            of labels.
        targets: scores for the columns ``mib_to_X`` and ``rounds_to_X``.

    Returns:
        A row a record, in their order, all with the same keys. None where a run has no such number.

    Raises:
        ConfigError: no run has that metric.
    """
    known = sorted({name for record in records for name in record.reports[-1].metrics})
    if metric and metric not in known:
        raise ConfigError(f"no run has the metric {metric!r}; choose one of {', '.join(known)}")
    metric = metric or metric_of(records[0].reports)
    budget = equal_mib(records)
    return [_row(record, metric, targets, budget) for record in records]


def metric_of(reports: Sequence[RoundReport]) -> str:
    """Name the metric that the paper reports for a run's kind of labels.

    A round may lack it (:func:`fedx_core.learning.evaluation.left_out`); where all do, the images
    have several labels, since those alone can bear none.
    """
    found = {name for report in reports for name in report.metrics}
    return next((name for name in PRIMARY.values() if name in found), PRIMARY["multi"])


def equal_mib(records: Sequence[Record]) -> float | None:
    """Return the smallest total of MiB among runs that send anything; None if none does."""
    totals = [total for record in records if (total := _sent(record.reports)[-1])]
    return min(totals, default=None)


def mib_sent(reports: Sequence[RoundReport]) -> float:
    """Return MiB on the wire over all rounds, both directions and all clients."""
    return _sent(reports)[-1]


def differing(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Return the settings in which runs differ, without those that have a column.

    Returns:
        By dotted path, the value by run; None where a run has no such setting. Data sets other than
        the runs' own are left out.
    """
    flat = {record.name: in_effect(record.settings) for record in records}
    paths = dict.fromkeys(path for settings in flat.values() for path in settings)
    found = {path: {run: values.get(path) for run, values in flat.items()} for path in paths}
    return {
        path: values
        for path, values in found.items()
        if path not in NAMED and len(set(map(repr, values.values()))) > 1
    }


def in_effect(settings: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that a run goes by, by dotted path; of data sets only its own."""
    return _flat(_plain(settings))


def by_images(records: Sequence[Record]) -> list[list[Record]]:
    """Put runs with the same images into one group each; only within one are runs rivals."""
    sources: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        source = config.as_plain(record.settings.datasets[record.settings.dataset].source)
        sources[repr([record.settings.dataset, source])].append(record)
    return list(sources.values())


def warnings(records: Sequence[Record], metric: str | None = None) -> list[str]:
    """Say what stands against comparing these runs' scores.

    Args:
        records: at least one run.
        metric: that is compared; None takes that of :func:`rows`.
    """
    metric = metric or metric_of(records[0].reports)
    found = []
    sources = by_images(records)
    if len(sources) > 1:
        groups = (
            f"{', '.join(record.name for record in group)} on {group[0].settings.dataset}"
            for group in sources
        )
        found.append(
            f"not the same test images: {'; '.join(groups)}. Their scores can't be compared"
        )
    elif len(tests := _test_images(records)) > 1:
        found.append(
            f"the data were prepared anew in between, not the same test images: "
            f"{'; '.join(', '.join(names) for names in tests)}. Their scores can't be compared"
        )
    personal = [
        record.name
        for record in records
        if plugins.load("methods", record.settings.method.name).personal
    ]
    if personal and len(personal) < len(records):
        found.append(
            f"{', '.join(personal)}: scored at the clients, each on its own test images, the other "
            "runs on the server's"
        )
    without = [record for record in records if metric not in record.reports[-1].metrics]
    other = [r.name for r in without if metric not in left_out(r.reports[-1].metrics)]
    if other:
        found.append(f"{', '.join(other)}: no {metric}, other kind of labels")
    if unscored := [record.name for record in without if record.name not in other]:
        found.append(f"{', '.join(unscored)}: no {metric}, {NO_LABEL}")
    unfinished = [record.name for record in records if not _finished(record)]
    if unfinished:
        found.append(f"{', '.join(unfinished)}: not finished")
    return found


def _test_images(records: Sequence[Record]) -> list[list[str]]:
    """Group runs by their test images, those left out that do not say which."""
    groups: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if content := (record.notes.get("content") or {}).get("test"):
            groups[content].append(record.name)
    return list(groups.values())


def _row(record: Record, metric: str, targets: Sequence[float], budget: float | None) -> Row:
    reports, settings = record.reports, record.settings
    relevance = settings.method.params.get("relevance")
    scores = [report.metrics.get(metric) for report in reports]
    sent = _sent(reports)
    best = _best(reports, scores, metric)
    paid = [n for n, mib in enumerate(sent) if budget is not None and mib <= budget]
    row: Row = {
        "run": record.name,
        "dataset": settings.dataset,
        "model": settings.model.name,
        "method": settings.method.name,
        "relevance": relevance["name"] if isinstance(relevance, Mapping) else None,
        "pruning_rate": settings.method.params.get("pruning_rate"),
        "seed": settings.seed,
        "rounds": reports[-1].round_index,
        "rounds_planned": settings.federation.rounds,
        "final": scores[-1],
        "validation": reports[-1].validation.get(metric),
        "best": None if best is None else scores[best],
        "best_round": None if best is None else reports[best].round_index,
        "equal_bytes": scores[paid[-1]] if paid else None,
        "mib_down": sum(r.downlink_bytes + r.mask_bytes for r in reports) / MIB,
        "mib_up": sum(r.uplink_bytes for r in reports) / MIB,
        "mib_total": sent[-1],
        **{f"ratio_{way}": times for way, times in asdict(ratio(reports)).items()},
        "mib_paper": sum(r.paper_bytes for r in reports) / MIB,
        "sparsity": reports[-1].sparsity,
        "seconds": sum(sum(r.seconds.values()) for r in reports),
        "clients_lost": sum(len(r.failures) for r in reports),
    }
    for target in targets:
        reached = next((n for n, s in enumerate(scores) if _reaches(s, target, metric)), None)
        row[f"mib_to_{target:g}"] = None if reached is None else sent[reached]
        row[f"rounds_to_{target:g}"] = None if reached is None else reports[reached].round_index
    return row


def _best(
    reports: Sequence[RoundReport], scores: Sequence[float | None], metric: str
) -> int | None:
    chosen = [n for n, r in enumerate(reports) if r.round_index == reports[-1].best_round]
    if chosen:
        return chosen[0]
    there = {n: score for n, score in enumerate(scores) if score is not None}
    if not there:
        return None
    # Both take the first of equals.
    pick = min if metric in LOWER_IS_BETTER else max
    return pick(there, key=lambda n: there[n])


def _reaches(score: float | None, target: float, metric: str) -> bool:
    if score is None:
        return False
    return score <= target if metric in LOWER_IS_BETTER else score >= target


def _sent(reports: Sequence[RoundReport]) -> list[float]:
    """MiB on the wire up to and with each round."""
    sent, total = [], 0
    for report in reports:
        total += report.wire_bytes
        sent.append(total / MIB)
    return sent


def _finished(record: Record) -> bool:
    last = record.reports[-1]
    return bool(last.stopped) or last.round_index >= record.settings.federation.rounds


def _plain(settings: ExperimentConfig) -> dict[str, Any]:
    plain = config.as_plain(settings)
    plain["datasets"] = {settings.dataset: plain["datasets"][settings.dataset]}
    return {name: value for name, value in plain.items() if name != "prepare"}


def _flat(block: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(block, Mapping):
        return {path: block}
    return {
        name: value
        for key, inner in block.items()
        for name, value in _flat(inner, f"{path}.{key}" if path else str(key)).items()
    }
