"""Where a client's time goes beside its training: the steps of real rounds, each by its own time.

    python benchmarks/steps.py [--jobs tiny100 resnet18] [--stores memory files] [--rounds N]

CPU milliseconds a client of one thread, which other load on the machine changes little. A step's
time is without that of the steps within it. The first round, which builds models and fills caches,
is left out; the last, in which each client is also asked to score, is not. Prints a Markdown table.
"""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs import JOBS, settings, write

from fedx_core.base import state
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.desk import desk
from fedx_core.methods import base
from fedx_core.rounds import cohort, dispatching, steps
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import base as store_base
from fedx_core.store import files, memory
from fedx_core.wire import acceptance, frame

APART = ("training", "evaluation")
STEPS: dict[str, list[tuple[Any, str]]] = {
    "training": [(desk, "fit")],
    "evaluation": [(steps, "evaluate")],
    "open the shard": [(client, "open_shard")],
    "load the weights": [(base, "load")],
    "copy the trained weights": [(base.Method, "finish")],
    "encode, with checksum": [(frame, "encode")],
    "SHA-256 of what is stored": [
        (store_base, "reference"), (memory, "reference"), (files, "reference")
    ],
    "store it": [(client, "create_once"), (client, "_send")],
    "fetch it, and the downlink; hash again": [
        (memory.MemoryStore, "get"), (files.FileStore, "get")
    ],
    "decode, with checksum": [(frame, "decode")],
    "look for NaN": [(state, "require_finite")],
    "add it up in float64": [(cohort, "total")],
    "check lengths, report and norm": [
        (frame, "require_length"), (acceptance, "check"), (acceptance, "check_norm")
    ],
    "read the job and report": [(client, "work"), (client, "canonical"), (client, "_earlier")],
    "write jobs and downlink, a round": [(dispatching, "dispatch")],
    "keep the state, a round": [(steps, "commit")],
}  # fmt: skip
REST = "everything else"


def main() -> None:
    """Run the jobs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--stores", nargs="+", choices=["memory", "files"],
                        default=["memory", "files"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=4, help="the first is left out")
    parser.add_argument("--clients", type=int, help="default: the job's")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("wanted 2 rounds or more")
    names = [(job, kept) for job in options.jobs for kept in options.stores]
    columns = [profile(job, kept, options.rounds, options.clients) for job, kept in names]
    print(f"| CPU ms a client | {' | '.join(f'{job}, {kept}' for job, kept in names)} |")
    print(f"| --- |{' --: |' * len(columns)}")
    for label in (*(step for step in STEPS if step not in APART), REST):
        print(f"| {label} | {' | '.join(f'{column[label]:.2f}' for column in columns)} |")
    sums = [sum(v for n, v in column.items() if n not in APART) for column in columns]
    print(f"| together | {' | '.join(f'{one:.1f}' for one in sums)} |")
    for label in APART:
        print(f"| {label} | {' | '.join(f'{column[label]:.1f}' for column in columns)} |")


def profile(name: str, kept: str, count: int, clients: int | None = None) -> dict[str, float]:
    """Run some rounds of a job and return milliseconds a client by step."""
    job = JOBS[name]
    job = dataclasses.replace(job, clients=clients or job.clients)
    with tempfile.TemporaryDirectory(prefix="fedx-steps-") as folder:
        write(job, Path(folder))
        place = Place(
            store=f"memory://steps-{name}" if kept == "memory" else f"{folder}/store",
            shards=f"{folder}/shards",
            memory="memory://memories",
        )
        setting = Setting(run="steps", data=Path(folder), place=place)
        running = federate(settings(job, count), setting, InProcess(1))
        next(running)
        with timed() as spent:
            began = time.thread_time()
            for _ in running:
                pass
            whole = time.thread_time() - began
    found = {label: spent[label] for label in STEPS}
    found[REST] = whole - sum(found.values())
    return {label: 1000 * seconds / job.clients / (count - 1) for label, seconds in found.items()}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Add up the time of each step while open; the core stays as it is."""
    spent, within = defaultdict[str, float](float), list[float]()

    def counting(label: str, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def counted(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            within.append(0.0)
            try:
                return step(*arguments, **named)
            finally:
                took = time.thread_time() - began
                spent[label] += took - within.pop()
                if within:
                    within[-1] += took

        return counted

    originals = [
        (label, where, name, getattr(where, name))
        for label, places in STEPS.items()
        for where, name in places
    ]
    for label, where, name, step in originals:
        setattr(where, name, counting(label, step))
    try:
        yield spent
    finally:
        for _, where, name, step in originals:
            setattr(where, name, step)


if __name__ == "__main__":
    main()
