"""What came of the runs: headline numbers, accuracy and bytes."""

import math
from collections.abc import Sequence

from fedx_core.learning.evaluation import NO_LABEL
from flows.comparing import compare
from flows.report.gather import Run
from flows.report.parts import Cell, Column, Drawing, Section, Table
from flows.runs.rows import MIB

SHARE = ".1%"
MEGABYTES = ",.2f"
WAYS = ("down", "up", "total")


def headline(runs: Sequence[Run], accuracy: float) -> Table:
    """Give each run one line.

    Args:
        runs: at least one.
        accuracy: for the column that says after how many MiB it was reached.
    """
    budget = None if _mixed(runs) else compare.equal_mib([run.record for run in runs])
    columns = [
        Column("run"), Column("method"), Column("relevance"), Column("q", "g"),
        Column("final", SHARE), Column("best", SHARE),
        *([Column(f"at {budget:,.1f} MiB", SHARE)] if budget is not None else []),
        Column("MiB down", MEGABYTES), Column("MiB up", MEGABYTES), Column("MiB mask", MEGABYTES),
        Column("MiB retry", MEGABYTES), Column("MiB total", MEGABYTES),
        *(Column(f"ratio {way}", ",.1f") for way in WAYS),
        Column("MiB paper", MEGABYTES), Column("sparsity", SHARE),
        Column(f"MiB to {_per_cent(accuracy)}", MEGABYTES), Column("seconds", ",.0f"),
        Column("clients lost", "d"),
    ]  # fmt: skip
    lines = _lines(runs, accuracy)
    return Table(
        name="headline",
        title="All runs",
        columns=columns,
        rows=[_cells(run, line, accuracy, budget) for run, line in zip(runs, lines, strict=True)],
        note="Final and best are test scores after the last and after the best round: the best by "
        "the tuning images where the run chose by them, else by the test images, which is too "
        'optimistic. "At" is the score when a run had sent no more bytes than the run that sent '
        "fewest. MiB are of payloads on the wire, all rounds and clients, evaluation left out; "
        "Ratio says how many times fewer than FedAvg's in float32, retries apart; "
        "paper MiB follow the paper's Table I: kept parameters only. q is the share of units that "
        "pruning removes. A client lost in two rounds counts twice.",
    )


def _cells(run: Run, line: compare.Row, accuracy: float, budget: float | None) -> list[Cell]:
    sent = run.summary["wire_bytes"]
    return [
        run.name,
        line["method"],
        line["relevance"] if line["pruning_rate"] else None,
        line["pruning_rate"],
        line["final"],
        line["best"],
        *([line["equal_bytes"]] if budget is not None else []),
        *(sent[way] / MIB for way in ("downlink", "uplink", "mask", "retry", "total")),
        *(line[f"ratio_{way}"] for way in WAYS),
        line["mib_paper"],
        line["sparsity"],
        line[f"mib_to_{accuracy:g}"],
        line["seconds"],
        line["clients_lost"],
    ]


def _lines(runs: Sequence[Run], accuracy: float) -> list[compare.Row]:
    """Take the numbers of ``fedx compare``; runs with other kinds of labels by their own metric."""
    if _mixed(runs):
        return [row for run in runs for row in compare.rows([run.record], targets=[accuracy])]
    return compare.rows([run.record for run in runs], targets=[accuracy])


def common_accuracy(runs: Sequence[Run]) -> float:
    """Return the highest whole percentage that every run reached that has a score."""
    highest = (
        max((r.metrics[run.metric] for r in run.reports if run.metric in r.metrics), default=None)
        for run in runs
    )
    lowest = min((score for score in highest if score is not None), default=0.0)
    return math.floor(100 * lowest + 1e-9) / 100


def sections(runs: Sequence[Run], accuracy: float) -> list[Section]:
    """Write the sections about accuracy and bytes."""
    return [
        Section(
            "headline", "In one table", _sentence(runs, accuracy),
            tables=[headline(runs, accuracy)],
            missing=[f"{line}." for line in compare.warnings([run.record for run in runs])],
        ),
        _accuracy(runs),
        _traffic(runs),
    ]  # fmt: skip


def _sentence(runs: Sequence[Run], accuracy: float) -> str:
    """Say who is ahead; of runs whose scores are of different kinds nobody is."""
    if len(runs) == 1:
        return f"{_ends(runs[0])}."
    if _mixed(runs):
        return ""
    scored = [run for run in runs if run.metric in run.summary["metrics"]]
    if not scored:
        return f"No run has a score, {NO_LABEL}."
    federated = [run for run in scored if run.summary["wire_bytes"]["total"]] or scored
    ahead = max(federated, key=lambda run: run.summary["metrics"][run.metric])
    costs = {line["run"]: line[f"mib_to_{accuracy:g}"] for line in _lines(federated, accuracy)}
    least = min((cost for cost in costs.values() if cost is not None), default=None)
    cheapest = (
        f" {_per_cent(accuracy)} cost the fewest bytes in "
        f"{' and '.join(name for name, cost in costs.items() if cost == least)}: {least:,.2f} MiB."
        if least is not None
        else ""
    )
    return (
        f"{_ends(ahead)}, the highest of {len(federated)} that send anything.{cheapest} Runs with "
        "one seed each tell large differences from none, not small ones."
    )


def _per_cent(accuracy: float) -> str:
    return f"{100 * accuracy:.4g}%"


def _mixed(runs: Sequence[Run]) -> bool:
    return len({run.metric for run in runs}) > 1


def _ends(run: Run) -> str:
    score = run.summary["metrics"].get(run.metric)
    sent = run.summary["wire_bytes"]["total"] / MIB
    ends = f"without {run.metric} ({NO_LABEL})" if score is None else f"at {score:.1%}"
    return f"{run.name} ends {ends} after {sent:,.2f} MiB and {len(run.reports)} rounds"


def _accuracy(runs: Sequence[Run]) -> Section:
    from flows.figures import accuracy_by_bytes, accuracy_by_round

    reports = {run.name: run.reports for run in runs}
    alt = "; ".join(map(_ends, runs))
    return Section(
        key="accuracy",
        title="Accuracy",
        drawings=[
            Drawing(
                "accuracy-by-round",
                accuracy_by_round(reports),
                f"Lines of test score by round. {alt}.",
                "Higher is better. A fall with a triangle at its foot is a pruning event; what "
                "follows is recovery.",
            ),
            Drawing(
                "accuracy-by-bytes",
                accuracy_by_bytes(reports),
                f"Lines of test score by MiB sent. {alt}.",
                "Further left at the same height is cheaper. Dotted level lines sent nothing.",
            ),
        ],
        tables=[_rounds(runs)],
    )


def _rounds(runs: Sequence[Run]) -> Table:
    longest: dict[int, list[Cell]] = {}
    for place, run in enumerate(runs):
        for report in run.reports:
            row = longest.setdefault(report.round_index, [None] * len(runs))
            row[place] = report.metrics.get(run.metric)
    return Table(
        name="accuracy-by-round",
        title="Test score after each round",
        columns=[Column("round", "d"), *(Column(run.name, SHARE) for run in runs)],
        rows=[[round_index, *row] for round_index, row in sorted(longest.items())],
    )


def _traffic(runs: Sequence[Run]) -> Section:
    from flows.figures.traffic import bytes_by_client

    traffic = {run.name: run.traffic for run in runs if run.traffic}
    silent = [run.name for run in runs if not any(t.total for t in run.traffic.values())]
    missing = [f"{name} sent nothing." for name in silent]
    shown = {name: clients for name, clients in traffic.items() if name not in silent}
    if not shown:
        return Section("bytes", "Bytes", missing=missing)
    sums = [
        f"{run.name}: {sum(r.wire_bytes for r in run.reports) / MIB:,.2f} MiB for training, "
        f"{sum(r.evaluation_bytes for r in run.reports) / MIB:,.2f} for evaluation"
        for run in runs
        if run.name in shown
    ]
    return Section(
        key="bytes",
        title="Bytes",
        drawings=[
            Drawing(
                "bytes-by-client",
                bytes_by_client(shown),
                f"Stacked bars of MiB by client and direction. {'; '.join(sums)}.",
                "Longer is dearer. Retries are failed and repeated attempts; evaluation is models "
                "fetched to be scored at the clients, which no total counts.",
            )
        ],
        tables=[
            Table(
                name="bytes-by-client",
                title="Bytes by client over all rounds",
                columns=[
                    Column("run"), Column("client"),
                    *(Column(way, ",d") for way in _WAYS), Column("total", ",d"),
                ],
                rows=[
                    [name, client, *(getattr(own, way) for way in _WAYS), own.total]
                    for name, clients in shown.items()
                    for client, own in clients.items()
                ],
                note="Total is without evaluation.",
            )
        ],
        missing=missing,
    )  # fmt: skip


_WAYS = ("downlink", "uplink", "mask", "retry", "evaluation")
