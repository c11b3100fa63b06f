"""FedX beside plain PyTorch and other frameworks: the same jobs, in the same minutes.

    python benchmarks/peers.py [--peers PYTHON] [--jobs tiny100 resnet18] [--rounds N] [--repeats N]
                               [--only NAME ...] [--only-print] [--output FILE]

Other frameworks run under the Python that ``--peers`` names, an environment of their own; which of
them it lacks is said, and the others run. Every entrant runs in a process of its own, one after
another and the whole row again for each repeat, so that other load on the machine meets all. Each
result is kept as a line of JSON at once, and what is there already isn't run again. Prints a
Markdown table of medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine import LOOKS_SECONDS, OUTSIDE, Result, Variant, launch, machine, proportional_bytes

HERE = Path(__file__).parent
PATIENCE_SECONDS = 1800


@dataclass(frozen=True)
class Entrant:
    """Who runs the job.

    Args:
        name: on the command line.
        title: in the table.
        workers: clients at once, each on one thread.
        variant: of :mod:`engine`; None for a framework.
        script: in ``benchmarks/frameworks``.
        needs: modules that the script imports.
    """

    name: str
    title: str
    workers: int
    variant: Variant | None = None
    script: str = ""
    needs: tuple[str, ...] = ()


ENTRANTS = [
    Entrant("plain", "plain loop", 1, Variant(1, "")),
    Entrant("plain_mp", "plain loop, two processes", 2, Variant(2, "")),
    Entrant("fedx", "FedX", 1, Variant(1, "file")),
    Entrant("fedx2", "FedX", 2, Variant(2, "file")),
    Entrant("fedx_memory", "FedX, store in memory", 1, Variant(1, "memory")),
    Entrant("fedx2_memory", "FedX, store in memory", 2, Variant(2, "memory")),
    Entrant("flower", "Flower", 1, script="with_flower.py", needs=("flwr", "ray")),
    Entrant("flower2", "Flower", 2, script="with_flower.py", needs=("flwr", "ray")),
    Entrant("pfl", "pfl", 1, script="with_pfl.py", needs=("pfl",)),
    Entrant("fluke", "fluke", 1, script="with_fluke.py", needs=("fluke",)),
]
BY_NAME = {entrant.name: entrant for entrant in ENTRANTS}
FLOOR = {1: "plain", 2: "plain_mp"}


def main() -> None:
    """Run what is missing and print the tables."""
    from jobs import JOBS, write

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", help="Python that has flwr, ray, pfl and fluke")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=["tiny100", "resnet18"])
    parser.add_argument("--rounds", type=int, default=3, help="the first is a warm-up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    parser.add_argument("--output", type=Path, default=Path("build/peers.jsonl"))
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("wanted 2 rounds or more; the first is a warm-up")
    entrants = [BY_NAME[name] for name in options.only]
    absent = missing(entrants, options.peers)
    for name, why in absent.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = read(options.output)
    for job in [] if options.only_print else options.jobs:
        with tempfile.TemporaryDirectory(prefix="fedx-bench-") as folder:
            write(JOBS[job], Path(folder))
            for repeat in range(options.repeats):
                for entrant in entrants:
                    key = {"job": job, "rounds": options.rounds, "repeat": repeat}
                    key["entrant"] = entrant.name
                    if entrant.name in absent or any(key.items() <= r.items() for r in results):
                        continue
                    found = run(entrant, job, Path(folder), options.rounds, options.peers) | key
                    results.append(found)
                    with options.output.open("a") as file:
                        file.write(json.dumps(found) + "\n")
    for job in options.jobs:
        chosen = [r for r in results if r["job"] == job and r["rounds"] == options.rounds]
        print(table(job, chosen, absent))
    print(f"{machine()}; {options.output}")


def read(path: Path) -> list[Result]:
    """Return what was measured before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def missing(entrants: Sequence[Entrant], python: str | None) -> dict[str, str]:
    """Say who can't run, and why."""
    wanted = {module for entrant in entrants for module in entrant.needs}
    if not wanted:
        return {}
    if python is None:
        why = "--peers names no Python that has it (benchmarks/README.md says how to make one)"
        return {entrant.name: why for entrant in entrants if entrant.needs}
    ask = (
        "import importlib.util, json, sys; "
        "print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]))"
    )
    try:
        said = subprocess.run(
            [python, "-c", ask, *sorted(wanted | {"torch", "psutil"})],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        return {e.name: f"{python} does not run ({error})" for e in entrants if e.needs}
    lacking = set(json.loads(said))
    found = {}
    for entrant in entrants:
        lack = sorted(lacking & {*entrant.needs, "torch", "psutil"})
        if entrant.needs and lack:
            found[entrant.name] = f"{python} has no {' and no '.join(lack)}"
    return found


def run(entrant: Entrant, job: str, folder: Path, rounds: int, python: str | None) -> Result:
    """Let one entrant run the job in a fresh process.

    Returns:
        ``round_seconds``, ``cpu_seconds``, ``outside_milliseconds``, ``start_seconds`` and
        ``pss_megabytes``; or ``failed``, with the last line of what was said.
    """
    if entrant.variant is not None:
        return launch(job, entrant.variant, str(folder), rounds)
    from jobs import BATCH_SIZE, CLASSES, JOBS

    print(f"{job}: {entrant.title}, {entrant.workers} at once", file=sys.stderr)
    assert python is not None
    with tempfile.TemporaryDirectory(prefix="fedx-events-") as events:
        task = {
            "model": JOBS[job].model, "classes": CLASSES, "clients": JOBS[job].clients,
            "rounds": rounds, "batch_size": BATCH_SIZE, "folder": str(folder), "events": events,
            "workers": entrant.workers,
        }  # fmt: skip
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # For the processes of Ray's, too.
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE / "frameworks")]),
            "FEDX_BENCH_TASK": json.dumps(task),
        }
        launched, peak = time.time(), 0
        with (Path(events) / "said").open("w+") as said:
            process = subprocess.Popen(
                [python, str(HERE / "frameworks" / entrant.script)],
                stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=events,
            )  # fmt: skip
            while process.poll() is None and time.time() - launched < PATIENCE_SECONDS:
                peak = max(peak, proportional_bytes(process.pid))
                time.sleep(LOOKS_SECONDS)
            if process.poll() is None:
                process.kill()
            said.seek(0)
            last = (said.read().strip().splitlines() or ["nothing was said"])[-1]
        if process.wait():
            print(f"{entrant.title} failed: {last}", file=sys.stderr)
            return {"failed": last}
        lines = [line for p in Path(events).glob("*.jsonl") for line in p.read_text().splitlines()]
        return summary(list(map(json.loads, lines)), launched, entrant, JOBS[job].clients) | {
            "pss_megabytes": peak / 1e6
        }


def summary(
    events: Sequence[Mapping[str, Any]], launched: float, entrant: Entrant, clients: int
) -> Result:
    """Turn what was noted into the figures of :func:`engine.measure`.

    Args:
        events: ``kind`` (``train``, ``evaluate`` or ``round``), ``ended`` in seconds since 1970,
            and ``seconds``, which for ``round`` are those of all cores since the start.
        launched: when the process was started, in seconds since 1970.
        entrant: who ran.
        clients: of a round.
    """
    ends = sorted((e["ended"], e["seconds"]) for e in events if e["kind"] == "round")
    walls, cpus, outside = [], [], []
    for (began, cpu_before), (ended, cpu_after) in list(pairwise(ends))[1:]:
        within = [e for e in events if began < e["ended"] <= ended]
        spent = {
            kind: sum(e["seconds"] for e in within if e["kind"] == kind)
            for kind in ("train", "evaluate")
        }
        walls.append(ended - began)
        cpus.append(cpu_after - cpu_before)
        rest = walls[-1] - spent["evaluate"] - spent["train"] / entrant.workers
        outside.append(1000 * rest / clients)
    first = min(e["ended"] - e["seconds"] for e in events if e["kind"] == "train")
    return {
        "round_seconds": statistics.median(walls),
        "cpu_seconds": statistics.median(cpus),
        OUTSIDE: statistics.median(outside),
        "start_seconds": first - launched,
    }


def table(job: str, results: Sequence[Mapping[str, Any]], absent: Mapping[str, str]) -> str:
    """Draw medians over repeats; ratios to the plain loop are those within a repeat."""
    lines = [
        f"{job}: medians of up to {len({r['repeat'] for r in results})} repeats",
        "",
        "| | clients at once | s per round | of the plain loop | CPU s per round | "
        "ms a client outside training and evaluation | first client after, s | PSS, MB |",
        f"| --- |{' --: |' * 7}",
    ]
    for entrant in ENTRANTS:
        mine = [r for r in results if r["entrant"] == entrant.name]
        sound = [r for r in mine if "failed" not in r]
        head = f"| {entrant.title} | {entrant.workers} |"
        if not sound:
            why = mine[-1]["failed"] if mine else absent.get(entrant.name)
            if why:
                lines.append(f"{head} not measured: {why} |{' |' * 5}")
            continue

        def middle(name: str, of: Sequence[Mapping[str, Any]] = sound) -> float:
            return float(statistics.median(r[name] for r in of))

        plain = {r["repeat"]: r for r in results if r["entrant"] == FLOOR[entrant.workers]}
        ratios = [
            r["round_seconds"] / plain[r["repeat"]]["round_seconds"]
            for r in sound
            if r["repeat"] in plain
        ]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        lines.append(
            f"{head} {middle('round_seconds'):.2f} | {ratio} | {middle('cpu_seconds'):.2f} | "
            f"{middle(OUTSIDE):.1f} | {middle('start_seconds'):.1f} | "
            f"{middle('pss_megabytes'):.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
