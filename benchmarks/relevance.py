"""What one explanation costs beside one forward and backward pass of the same images.

    python benchmarks/relevance.py [--models NAME ...] [--pairs N] [--images N] [--profile]
                                   [--precision auto|model|float64]

Each model runs in a process of its own with one thread: one training pass (forward, loss, backward
with weight gradients, train mode), one LRP pass (a whole call of the criterion for one batch, with
its copy of the model) and integrated gradients, in turn, again for each pair; so other load on the
machine meets all of them. Ratios are of medians. Memory is the most that tensors held at once, the
model included. Freed memory stays with the process, as in a run. Prints a Markdown table with the
targets and keeps every number as JSON; ``--profile`` says which operations the time goes into.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import operations

STEPS = 10
"""Of integrated gradients; its ratio is divided by them."""

IMAGES = {"resnet50": 16, "convnextv2_nano": 16, "vit_base_patch16_224": 2}
PAIRS = {"vit_base_patch16_224": 3}
"""Of the heavy models; 32 images and 10 pairs for the others."""

LRP_TARGETS = {"resnet": 1.5, "convnext": 2.0, "vit": 2.0}
MEMORY_TARGET, IG_TARGET = 1.5, 0.75
KINDS = ("training", "lrp", "ig")


def main() -> None:
    """Measure each model in turn and print the table."""
    from fedx_core.models import catalogue

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=catalogue.names(), metavar="NAME",
                        default=catalogue.names(), help="default: all")  # fmt: skip
    parser.add_argument("--pairs", type=int, help="default: 10; 3 for ViT")
    parser.add_argument("--images", type=int, help="of one batch; default: 32, 16 or 2")
    parser.add_argument("--precision", choices=("auto", "model", "float64"), help="of LRP")
    parser.add_argument("--profile", action="store_true", help="print the costliest operations")
    parser.add_argument("--output", type=Path, default=Path("build/relevance.json"))
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        images = options.images or IMAGES.get(options.one, 32)
        pairs = options.pairs or PAIRS.get(options.one, 10)
        chosen = {"profiled": options.profile, "precision": options.precision or "auto"}
        print(json.dumps(measure(options.one, images, pairs, **chosen)))
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for name in options.models:
        results.append(launch(name, options))
        options.output.write_text(json.dumps(results, indent=1))
    print(table(results))
    for result in results:
        for kind in KINDS if options.profile else ():
            print("\n" + operations.table(f"{result['model']}, {kind}", result[kind]["operations"]))
    print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, one thread")


def launch(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model in a fresh process."""
    print(name, file=sys.stderr)
    command = [sys.executable, __file__, "--one", name]
    for option in ("pairs", "images", "precision"):
        if getattr(options, option):
            command += [f"--{option}", str(getattr(options, option))]
    command += ["--profile"] if options.profile else []
    found = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    result: dict[str, Any] = json.loads(found.stdout)
    return result


def measure(
    name: str,
    images: int,
    pairs: int,
    steps: int = STEPS,
    *,
    profiled: bool = False,
    precision: Any = "auto",
) -> dict[str, Any]:
    """Measure one model here; ``profiled`` adds the operations of each kind.

    ``precision`` is LRP's.

    Returns:
        For each of :data:`KINDS` a list of CPU seconds and of wall seconds, one a pair, and the
        peak of its tensors in bytes; besides what was measured.
    """
    import torch
    from torch.nn import functional

    from fedx_core.base import allocator
    from fedx_core.models import catalogue
    from fedx_core.relevance import integrated_gradients, lrp
    from fedx_core.relevance.base import Reference

    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    entry, model = catalogue.entry(name), catalogue.build(name, 3, 10, seed=1)
    graph = entry.graph(model)
    size = entry.input_size or 64
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(images, 3, size, size, generator=generator)
    targets = torch.arange(images) % 10
    reference = Reference(batch, targets)

    def training() -> None:
        model.train()
        functional.cross_entropy(model(batch), targets).backward()
        model.zero_grad()

    def explain(criterion: Any) -> Callable[[], None]:
        def run() -> None:
            criterion.score(model, graph, entry, reference, seed=0, batch_size=images)

        return run

    runs: Mapping[str, Callable[[], None]] = {
        "training": training,
        "lrp": explain(lrp.Criterion(precision=precision)),
        "ig": explain(integrated_gradients.Criterion(steps=steps)),
    }
    held = sum(value.nbytes for value in model.state_dict().values())
    result: dict[str, Any] = {
        kind: {"peak_bytes": held + peak_bytes(run), "cpu": [], "wall": []}
        for kind, run in runs.items()
    }
    for _ in range(pairs):
        for kind, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            result[kind]["cpu"].append(time.process_time() - cpu)
            result[kind]["wall"].append(time.perf_counter() - wall)
    for kind, run in runs.items() if profiled else ():
        result[kind]["operations"] = operations.operations(run)
    return {
        "model": name, "family": entry.family, "images": images, "size": size,
        "pairs": pairs, "steps": steps, **result,
    }  # fmt: skip


def peak_bytes(run: Callable[[], None]) -> int:
    """Measure the most that tensors made by a run held at once; also warms it up."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def table(results: list[dict[str, Any]]) -> str:
    """Draw ratios of medians, each with its target."""
    lines = [
        "| model | images | pairs | training pass, CPU s | LRP, CPU | LRP, wall | target | "
        "LRP, memory | target | IG per step, CPU | IG per step, wall | target |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for one in results:

        def ratio(kind: str, clock: str, one: dict[str, Any] = one) -> float:
            mine, gradient = (statistics.median(one[k][clock]) for k in (kind, "training"))
            return float(mine / gradient / (one["steps"] if kind == "ig" else 1))

        cells = [
            one["model"],
            f"{one['images']} x {one['size']} px",
            str(one["pairs"]),
            f"{statistics.median(one['training']['cpu']):.2f}",
            f"{ratio('lrp', 'cpu'):.2f}",
            f"{ratio('lrp', 'wall'):.2f}",
            f"{LRP_TARGETS[one['family']]:.1f}",
            f"{one['lrp']['peak_bytes'] / one['training']['peak_bytes']:.2f}",
            f"{MEMORY_TARGET:.1f}",
            f"{ratio('ig', 'cpu'):.2f}",
            f"{ratio('ig', 'wall'):.2f}",
            f"{IG_TARGET:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
