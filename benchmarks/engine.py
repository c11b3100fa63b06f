"""What the engine costs beside a plain PyTorch loop, on the same job in the same minutes.

    python benchmarks/engine.py [--job tiny100|resnet18] [--rounds N] [--repeats N] [--output FILE]

Every variant runs in a process of its own, one after another and the whole row again for each
repeat, so that other load on the machine meets all of them. Ratios are taken within a repeat; the
table shows medians over repeats. Prints a Markdown table and keeps every number as JSON.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

Result = dict[str, Any]
OUTSIDE = "outside_milliseconds"
LOOKS_SECONDS = 0.5
"""Between two looks at a process's memory, for which the kernel stops it: ten a second cost a
client of ``tiny100`` three milliseconds."""


@dataclass(frozen=True)
class Variant:
    """One way to run the job.

    Args:
        workers: clients at once.
        store: ``file``, ``memory``, or empty for the plain loop.
    """

    workers: int
    store: str

    @property
    def name(self) -> str:
        """For the table."""
        return f"engine, {self.store} store" if self.store else "plain loop"


VARIANTS = [Variant(workers, store) for workers in (1, 2) for store in ("", "memory", "file")]


def main() -> None:
    """Run all variants in turn and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", choices=["resnet18", "tiny100"], default="tiny100")
    parser.add_argument("--rounds", type=int, default=3, help="the first is a warm-up")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="default: build/engine-JOB.json")
    parser.add_argument("--one", nargs=3, metavar=("WORKERS", "STORE", "FOLDER"),
                        help=argparse.SUPPRESS)  # fmt: skip
    options = parser.parse_args()
    if options.rounds < 2 or options.repeats < 1:
        parser.error("wanted 2 rounds or more (the first is a warm-up) and 1 repeat or more")
    if options.one:
        workers, store, folder = options.one
        measured = measure(options.job, Variant(int(workers), store), Path(folder), options.rounds)
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory(prefix="fedx-bench-") as folder:
        from jobs import JOBS, write

        write(JOBS[options.job], Path(folder))
        repeats = [
            [launch(options.job, variant, folder, options.rounds) for variant in VARIANTS]
            for _ in range(options.repeats)
        ]
    codec = codec_speed(options.job)
    output = options.output or Path("build") / f"engine-{options.job}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        json.dumps({"job": options.job, "repeats": repeats, "codec": codec}, indent=1)
    )
    print(table(options.job, repeats))
    print(
        f"\nDense payload of {codec['megabytes']:.1f} MB: encode {codec['encode']:.2f} GB/s, "
        f"decode {codec['decode']:.2f} GB/s (checksum included); the store's SHA-256 "
        f"{codec['sha256']:.2f} GB/s."
    )
    print(f"{machine()}; numbers in {output}")


def launch(job: str, variant: Variant, folder: str, rounds: int) -> Result:
    """Run one variant in a fresh process and watch its memory."""
    command = [
        sys.executable, __file__, "--job", job, "--rounds", str(rounds),
        "--one", str(variant.workers), variant.store, folder,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "FEDX_BENCH_LAUNCHED": str(time.time()),
    }
    print(f"{job}: {variant.name}, {variant.workers} at once", file=sys.stderr)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, proportional_bytes(process.pid))
            time.sleep(LOOKS_SECONDS)
        assert process.stdout is not None
        if process.returncode:
            raise SystemExit(f"{variant.name} failed with exit code {process.returncode}")
        return {**json.loads(process.stdout.read()), "pss_megabytes": peak / 1e6}


def measure(name: str, variant: Variant, folder: Path, rounds: int) -> Result:
    """Run one variant here; see :func:`launch` for what comes from outside."""
    from jobs import JOBS

    job = JOBS[name]
    run = plain_rounds if not variant.store else engine_rounds
    measured, first_client = run(job, variant, folder, rounds)
    steady = measured[1:]  # the first round builds models and fills caches
    outside = [
        (one.wall - one.evaluate - one.train / variant.workers) / job.clients for one in steady
    ]
    return {
        **asdict(variant),
        "round_seconds": statistics.median(one.wall for one in steady),
        "cpu_seconds": statistics.median(one.cpu for one in steady),
        OUTSIDE: 1000 * statistics.median(outside),
        "start_seconds": first_client - float(os.environ["FEDX_BENCH_LAUNCHED"]),
        "rss_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "rounds": [asdict(one) for one in measured],
    }


def plain_rounds(job: Any, variant: Variant, folder: Path, rounds: int) -> tuple[list[Any], float]:
    """Run the plain loop."""
    from plain import run

    ready = time.time()
    measured: list[Any] = []
    for one in run(job, folder, rounds, variant.workers):
        if not measured:
            ready = time.time() - one.wall
        measured.append(one)
    return measured, ready


def engine_rounds(job: Any, variant: Variant, folder: Path, rounds: int) -> tuple[list[Any], float]:
    """Run the same job through :func:`fedx_core.rounds.federation.federate`."""
    from jobs import settings
    from plain import Round, cpu_seconds

    from fedx_core.clients.client import Place
    from fedx_core.rounds.carrier import InProcess
    from fedx_core.rounds.federation import federate
    from fedx_core.rounds.start import Setting

    with tempfile.TemporaryDirectory(prefix="fedx-store-") as store:
        place = Place(
            store="memory://bench" if variant.store == "memory" else store,
            shards=str(folder / "shards"),
            memory="memory://memories",
        )
        setting = Setting(run="bench", data=folder, place=place)
        measured: list[Any] = []
        with timed_training() as spans:
            started, seen, spent = time.perf_counter(), 0, cpu_seconds()
            for report in federate(settings(job, rounds), setting, InProcess(variant.workers)):
                ended = time.perf_counter()
                train = sum(stop - start for start, stop in spans[seen:])
                cpu = cpu_seconds() - spent
                measured.append(Round(ended - started, report.seconds["evaluate"], train, cpu))
                started, seen, spent = time.perf_counter(), len(spans), cpu_seconds()
        return measured, time.time() - (time.perf_counter() - min(spans)[0])


@contextmanager
def timed_training() -> Iterator[list[tuple[float, float]]]:
    """Note when every call of the training loop begins and ends; the core stays as it is."""
    from fedx_core.desk import desk
    from fedx_core.learning import training

    spans = list[tuple[float, float]]()

    def fit(*arguments: Any, **settings: Any) -> float:
        started = time.perf_counter()
        loss = training.fit(*arguments, **settings)
        spans.append((started, time.perf_counter()))
        return loss

    with patch.object(desk, "fit", fit):
        yield spans


def codec_speed(name: str) -> dict[str, float]:
    """Encode and decode the job's downlink; the best of some repeats, in gigabytes a second."""
    import torch
    from jobs import CLASSES, JOBS

    from fedx_core.base import plugins, state
    from fedx_core.models import catalogue
    from fedx_core.store import reference
    from fedx_core.wire.messages import Entry, Schema

    torch.set_num_threads(1)  # as at a client
    model = catalogue.build(JOBS[name].model, 3, CLASSES, seed=1)
    payload = state.as_section(model.state_dict(), "model")
    schema = Schema(tuple(Entry(n, str(v.dtype), tuple(v.shape)) for n, v in payload.items()))
    codec = plugins.build("codec", "dense", {})
    data, _ = codec.encode(payload, schema, {}, 0)
    encode = _fastest(lambda: codec.encode(payload, schema, {}, 0))
    decode = _fastest(lambda: codec.decode(data, schema))
    size = len(data)
    return {
        "megabytes": size / 1e6,
        "encode": size / encode / 1e9,
        "decode": size / decode / 1e9,
        "sha256": size / _fastest(lambda: reference("key", data)) / 1e9,
    }


def _fastest(action: Callable[[], object], repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def proportional_bytes(pid: int) -> int:
    """Sum the proportional set sizes of a process and its children: shared pages count once."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.Error:  # it has just ended
        pass
    return total


def machine() -> str:
    """Say what figures depend on: cores, load, and who else has torch's pages, shared by PSS."""
    said = f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    others = 0
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            others += process.pid != os.getpid() and "libtorch_cpu" in maps
    return f"{said}, PSS too low by what {others} others share" if others else said


def table(job: str, repeats: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Draw the medians over repeats; ratios are those within each repeat."""
    lines = [
        f"{job}: medians of {len(repeats)} repeats",
        "",
        "| variant | clients at once | s per round | of plain | CPU s per round | of plain | "
        "ms per client outside training and evaluation | above plain, ms | "
        "start to first client, s | peak RSS, MB | peak PSS, MB |",
        f"| --- |{' --: |' * 10}",
    ]
    for index, variant in enumerate(VARIANTS):
        floor = VARIANTS.index(Variant(variant.workers, ""))

        def middle(read: Callable[[Mapping[str, Any], Mapping[str, Any]], float],
                   mine: int = index, plain: int = floor) -> float:  # fmt: skip
            return statistics.median(read(row[mine], row[plain]) for row in repeats)

        cells = [
            variant.name,
            str(variant.workers),
            f"{middle(lambda mine, _: mine['round_seconds']):.2f}",
            f"{middle(lambda mine, plain: mine['round_seconds'] / plain['round_seconds']):.2f}",
            f"{middle(lambda mine, _: mine['cpu_seconds']):.2f}",
            f"{middle(lambda mine, plain: mine['cpu_seconds'] / plain['cpu_seconds']):.2f}",
            f"{middle(lambda mine, _: mine[OUTSIDE]):.1f}",
            f"{middle(lambda mine, plain: mine[OUTSIDE] - plain[OUTSIDE]):.1f}",
            f"{middle(lambda mine, _: mine['start_seconds']):.1f}",
            f"{middle(lambda mine, _: mine['rss_megabytes']):.0f}",
            f"{middle(lambda mine, _: mine['pss_megabytes']):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
