"""What a client costs on each way to carry a round, where there are many that take milliseconds.

    python benchmarks/runtimes.py [--clients N] [--images N] [--rounds N] [--only NAME ...]
                                  [--workers N] [--output FILE]

One round of ``--clients`` small clients after a warm-up, each way in a process of its own: in this
process, on Prefect's threads in groups and one by one, and on a Dask cluster of this machine.
Prints a Markdown table. A Prefect server of its own starts with each.
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
from pathlib import Path
from typing import Any

from engine import LOOKS_SECONDS, Result, machine, proportional_bytes

from flows.settings.choices import RunAt


@dataclass(frozen=True)
class Way:
    """How a round is carried.

    Args:
        name: on the command line.
        run_at: see :data:`flows.settings.choices.RunAt`.
        clients_per_task: that one task trains; None is as FedX chooses.
    """

    name: str
    run_at: RunAt
    clients_per_task: int | None


WAYS = [
    Way("here", "here", 1),
    Way("threads", "threads", None),
    Way("threads-1", "threads", 1),
    Way("threads-20", "threads", 20),
    Way("dask", "dask", None),
    Way("dask-10", "dask", 10),
]
BY_NAME = {way.name: way for way in WAYS}


def main() -> None:
    """Run each way and print the table."""
    import jobs

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--images", type=int, default=4, help="of each client")
    parser.add_argument("--rounds", type=int, default=3, help="the first is a warm-up")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--output", type=Path, default=Path("build/runtimes.json"))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    job = jobs.Job(model="resnet6", clients=options.clients, images=options.images)
    if options.one:
        way, folder = BY_NAME[options.one[0]], Path(options.one[1])
        print(json.dumps(measure(job, way, folder, options.rounds, options.workers)))
        return
    found: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="fedx-bench-") as folder_name:
        jobs.write(job, Path(folder_name))
        for name in options.only:
            found[name] = _launch(name, folder_name, sys.argv[1:])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"job": vars(options) | {"output": ""}, "ways": found},
                                         indent=1))  # fmt: skip
    print(table(found, options.clients))
    print(f"\n{machine()}; {options.output}")


def _launch(name: str, folder: str, arguments: Sequence[str]) -> Result:
    print(name, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="fedx-prefect-") as home:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        }
        said = Path(home) / "said.log"
        with said.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, __file__, *arguments, "--one", name, folder],
                stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip
            peak = 0
            while process.poll() is None:
                peak = max(peak, proportional_bytes(process.pid))
                time.sleep(LOOKS_SECONDS)
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{said.read_text()[-3000:]}")
        assert process.stdout is not None
        last = process.stdout.read().strip().splitlines()[-1]
    return {**json.loads(last), "pss_megabytes": peak / 1e6}


def measure(job: Any, way: Way, folder: Path, rounds: int, workers: int) -> Result:
    """Carry the rounds one way.

    Returns:
        ``train_seconds`` of a round, in the median: from the first client to the last, updates
        added up; ``model``, the final model's digest.
    """
    from jobs import settings
    from prefect import flow

    from fedx_core.base import state
    from fedx_core.clients.client import Place
    from fedx_core.rounds.federation import federate, final_model
    from fedx_core.rounds.start import Setting
    from fedx_core.store import open_store
    from flows.carriers.runtimes import choose

    with tempfile.TemporaryDirectory(prefix="fedx-store-") as store:
        place = Place(store=store, shards=str(folder / "shards"), memory=f"{store}/memory")
        setting = Setting(run="bench", data=folder, place=place)

        def run() -> list[float]:
            with choose(
                way.run_at, workers, place, clients_per_task=way.clients_per_task
            ) as runtime:
                reports = list(federate(settings(job, rounds), setting, runtime))
            return [report.seconds["train"] for report in reports]

        seconds = run() if way.run_at == "here" else flow(name="bench")(run)()
        digest = state.digest(final_model(open_store(store)))
    return {"train_seconds": statistics.median(seconds[1:] or seconds), "model": digest}


def table(found: Mapping[str, Mapping[str, Any]], clients: int) -> str:
    """Draw what a client costs beside a round in this process; where models differ, say so."""
    lines = [
        f"{clients} clients per round",
        "",
        "| way | clients per task | s per round | ms a client more than here | PSS, MB |",
        "| --- | --: | --: | --: | --: |",
    ]
    here = found.get("here")
    for name, one in found.items():
        more = 1000 * (one["train_seconds"] - here["train_seconds"]) / clients if here else None
        lines.append(
            f"| {BY_NAME[name].run_at} | {BY_NAME[name].clients_per_task or 'default'} | "
            f"{one['train_seconds']:.1f} | {'' if more is None else f'{more:.1f}'} | "
            f"{one['pss_megabytes']:.0f} |"
        )
    if len({one["model"] for one in found.values()}) > 1:
        lines.append("\nThe models differ, which they must not.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
