"""All of real EuroSAT: FedX by three criteria at two rates, FedAvg and the two bounds.

    fedx data eurosat
    python benchmarks/eurosat.py --run-root runs/eurosat

ResNet6, 8 clients iid, 20 rounds, pruning after 10; the pruned cells share FedAvg's first ten
rounds. Every cell resumes where it stopped, so the script can be ended and started again. Prints
the tables of ``docs/results.md`` and saves its figure.
"""

import argparse
import sys
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedx_core.base import config
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport
from flows.figures import accuracy, style

MIB = 2**20
ROOT = Path(__file__).parent.parent
SHARED = {
    "dataset": "eurosat",
    "training.epochs": 1,
    "training.batch_size": 64,
    "training.batch_norm": "recalibrate",
    "federation.rounds": 20,
    "federation.keep_states": 20,
}
WARMUP = 10
CELLS = [(criterion, rate) for rate in (0.5, 0.9) for criterion in ("lrp", "magnitude", "random")]


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run-root", type=Path, default=Path("runs/eurosat"))
    parser.add_argument("--data", type=Path, default=Path("data/eurosat"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--figure", type=Path, default=None, help="where to save the figure (SVG)")
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    options = parser.parse_args()

    def run(name: str, settings: dict[str, Any], branch: Branch | None = None) -> None:
        if not options.only_print:
            _run(name, {**SHARED, **settings}, branch, options)

    run("fedavg", {"method.name": "fedavg"})
    branch = Branch(store=str(options.run_root / "fedavg" / "store"), round_index=WARMUP)
    for criterion, rate in CELLS:
        settings = {
            "method.name": "fedx",
            "method.pruning_rate": rate,
            "method.warmup_rounds": WARMUP,
            "method.relevance": {"name": criterion},
        }
        run(f"{criterion}-q{rate}", settings, branch)
    run("centralised", {"method.name": "centralised"})
    run("local_only", {"method.name": "local_only"})

    names = ["fedavg", *(f"{c}-q{q}" for c, q in CELLS), "centralised", "local_only"]
    runs = {name: history(open_store(str(options.run_root / name / "store"))) for name in names}
    runs = {name: reports for name, reports in runs.items() if reports}
    print(_table(runs))
    if options.figure is not None:
        options.figure.write_bytes(style.as_svg(accuracy(runs)))


def _run(
    name: str, settings: dict[str, Any], branch: Branch | None, options: argparse.Namespace
) -> None:
    folder = options.run_root / name
    place = Place(
        store=str(folder / "store"),
        shards=str(options.data / "shards"),
        memory=str(folder / "clients"),
    )
    started = time.time()
    for report in federate(
        config.load(ROOT / "params.yaml", settings),
        Setting(run=name, data=options.data, place=place),
        InProcess(options.workers),
        resume=Journal(open_store(place.store)).run() is not None,
        branch=branch,
    ):
        print(
            f"{name} round {report.round_index}: {report.metrics['overall_accuracy']:.4f}"
            f" after {time.time() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _table(runs: dict[str, list[RoundReport]]) -> str:
    lines = [
        "| run | before | right after | at the end | mean of last 5 | wire MiB | of FedAvg |"
        " paper MiB | MiB to 70 % | MiB to 80 % | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    whole = sum(report.wire_bytes for report in runs["fedavg"])
    for name, reports in runs.items():
        scores = [report.metrics["overall_accuracy"] for report in reports]
        event = next((report for report in reports if report.pruned), None)
        before = _percent(event.metrics_before_pruning["overall_accuracy"]) if event else "-"
        after = _percent(event.metrics["overall_accuracy"]) if event else "-"
        wire = sum(report.wire_bytes for report in reports)
        share = f"{100 * wire / whole:.1f} %" if wire else "-"
        seconds = sum(sum(report.seconds.values()) for report in reports)
        lines.append(
            f"| {name}{'' if len(reports) == 20 else f' ({len(reports)} rounds)'} | {before} |"
            f" {after} | {_percent(scores[-1])} | {_percent(sum(scores[-5:]) / len(scores[-5:]))} |"
            f" {wire / MIB:.1f} | {share} |"
            f" {sum(report.paper_bytes for report in reports) / MIB:.1f} |"
            f" {_mib_to(reports, 0.7)} | {_mib_to(reports, 0.8)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mib_to(reports: list[RoundReport], wanted: float) -> str:
    """MiB on the wire until a round ends with that accuracy."""
    sent = accumulate(report.wire_bytes for report in reports)
    for report, total in zip(reports, sent, strict=True):
        if report.metrics["overall_accuracy"] >= wanted:
            return f"{total / MIB:.1f}" if total else "-"
    return "not reached"


if __name__ == "__main__":
    main()
