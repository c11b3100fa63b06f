"""What a model without its dead units saves: time, memory and bytes of a training step.

    python benchmarks/shrink.py [--models NAME ...] [--rates RATE ...] [--pairs N] [--profile]

Random masks, random images. A step of the dense model, of the masked one (dense arithmetic, dead
units held at zero) and of the small one follow each other, as often as there are pairs, so that
other load on the machine meets all of them; the table shows ratios of medians. One thread, the
optimiser and the allocator of a real client. Prints a Markdown table and keeps every number as
JSON; ``--profile`` says which operations a step of the small model goes into.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import operations
import torch
from torch import Tensor, nn

from fedx_core.base import allocator, config, plugins
from fedx_core.base.config import Plugin
from fedx_core.desk.desk import Desk
from fedx_core.desk.plan import Plan
from fedx_core.images.pixels import Pixels
from fedx_core.methods.base import Method
from fedx_core.models import catalogue
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.pruning.shrink.model import shrink
from fedx_core.pruning.structure import UnitGraph
from fedx_core.wire.frame import HEADER

ROOT = Path(__file__).parent.parent
BANDS, CLASSES, SIDE = 10, 19, 64
Step = Callable[[], None]


@dataclass(frozen=True)
class Saving:
    """One model, rate and way to prune; shares are of the dense model.

    Args:
        model: name in the catalogue.
        rate: share of units that are dead.
        coupled: whether writers of a residual channel are pruned together.
        parameters: share of the parameters that the small model has.
        masked_bytes: share of the payload with codec ``masked``.
        sliced_bytes: share of the payload with codec ``sliced``.
        memory: share of the tensors of a step: parameters, gradients, Adam's moments, and what
            the forward pass saves for the backward pass.
        wall: seconds of each step, by variant.
        cpu: CPU seconds of each step, by variant.
        operations: of a step of the small model; empty where it was not profiled.
    """

    model: str
    rate: float
    coupled: bool
    parameters: float
    masked_bytes: float
    sliced_bytes: float
    memory: float
    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    operations: list[operations.Operation]


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18"], choices=catalogue.names())
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5, 0.9])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--memory-format", choices=["channels_last", "contiguous"],
                        default="channels_last")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="print the costliest operations")
    parser.add_argument("--output", type=Path, default=Path("build/shrink.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    savings = []
    for name in options.models:
        for rate in options.rates:
            ways = (False, True) if catalogue.entry(name).family == "resnet" else (False,)
            for coupled in ways:
                savings.append(
                    measure(name, rate, coupled=coupled, pairs=options.pairs, batch=options.batch,
                            channels_last=options.memory_format == "channels_last",
                            profiled=options.profile)
                )  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps([asdict(one) for one in savings], indent=1))
    print(table(savings))
    for one in savings if options.profile else ():
        way = "coupled" if one.coupled else "independent"
        title = f"{one.model}, q {one.rate:g}, {way}: small step"
        print("\n" + operations.table(title, one.operations))
    print(
        f"\nMedians of {options.pairs} steps of {options.batch} images; {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f}; numbers in {options.output}"
    )


def measure(
    name: str,
    rate: float,
    *,
    coupled: bool,
    pairs: int,
    batch: int,
    channels_last: bool,
    profiled: bool = False,
) -> Saving:
    """Build the three variants and let them take turns."""
    entry = catalogue.entry(name)
    side = entry.input_size or SIDE
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dense = catalogue.build(name, BANDS, CLASSES, seed=1)
    graph = entry.graph(dense)
    mask = random_mask(graph, rate, coupled=coupled)
    masked = catalogue.build(name, BANDS, CLASSES, seed=1)
    support = graph.support(mask, "slices")
    masked.load_state_dict(masks.apply(masked.state_dict(), support))
    small = shrink(masked, graph, mask, entry)
    images = torch.randn(batch, BANDS, side, side, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=memory_format)
    labels = torch.arange(batch) % CLASSES
    memory, steps = {}, {}
    for variant, model in (("dense", dense), ("masked", masked), ("small", small)):
        model.to(memory_format=memory_format).train()
        memory[variant] = step_bytes(model, images, labels)
        held = support if variant == "masked" else {}
        steps[variant] = stepper(model, images, labels, held)
    wall, cpu = take_turns(steps, pairs)
    whole = payload_bytes(dense, graph, None)
    count = sum(p.numel() for p in dense.parameters())
    return Saving(
        model=name,
        rate=rate,
        coupled=coupled,
        parameters=sum(p.numel() for p in small.parameters()) / count,
        masked_bytes=payload_bytes(dense, graph, mask, "units") / whole,
        sliced_bytes=payload_bytes(dense, graph, mask, "slices") / whole,
        memory=memory["small"] / memory["dense"],
        wall=wall,
        cpu=cpu,
        operations=operations.operations(steps["small"], 10) if profiled else [],
    )


def random_mask(graph: UnitGraph, rate: float, *, coupled: bool) -> Mask:
    """Draw a mask as ``method.relevance: random`` does."""
    generator = torch.Generator().manual_seed(1)
    scores = {x.name: torch.rand(x.units, generator=generator) for x in graph.layers}
    groups = graph.coupled if coupled else ()
    return masks.uncouple(keep_highest(masks.couple(scores, groups), rate), groups, scores)


def stepper(model: nn.Module, images: Tensor, labels: Tensor, held: dict[str, Tensor]) -> Step:
    """Return a function that takes one step of Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        for name, parameter in model.named_parameters():
            if name in held and parameter.grad is not None:
                parameter.grad.mul_(held[name])
        optimiser.step()

    return step


def take_turns(
    steps: dict[str, Step], pairs: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time every variant once a turn, after one turn that does not count."""
    wall: dict[str, list[float]] = {variant: [] for variant in steps}
    cpu: dict[str, list[float]] = {variant: [] for variant in steps}
    for turn in range(pairs + 1):
        for variant, step in steps.items():
            started, spent = time.perf_counter(), time.process_time()
            step()
            if turn:
                wall[variant].append(time.perf_counter() - started)
                cpu[variant].append(time.process_time() - spent)
    return wall, cpu


def step_bytes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Count the bytes that a step of training keeps: weights, gradients, moments, activations."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    own |= {images.untyped_storage().data_ptr(), labels.untyped_storage().data_ptr()}
    saved: dict[int, int] = {}
    alive: list[Tensor] = []  # or else a freed storage's address is given to the next one

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        nn.functional.cross_entropy(model(images), labels)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return 4 * parameters + sum(saved.values())


def payload_bytes(model: nn.Module, graph: UnitGraph, mask: Mask | None, mode: Any = None) -> int:
    """Return the length of a payload, as its receiver knows it before it reads."""
    pixels = Pixels(
        scale=1.0, mean=(0.0,) * BANDS, std=(1.0,) * BANDS, input_size=None,
        memory_format="contiguous",
    )  # fmt: skip
    plan = Plan(
        model="resnet18", bands=BANDS, classes=CLASSES, label_kind="single", pixels=pixels,
        training=config.load(ROOT / "params.yaml").training,
        method=Plugin(name="fedavg"), codec=Plugin(name="dense"),
    )  # fmt: skip
    desk = Desk(
        plan=plan,
        entry=catalogue.entry("resnet18"),
        model=model,
        graph=graph,
        down=plugins.build("codec", "dense", {}),
        up=plugins.build("codec", "dense", {}),
    )
    schema = Method().schema(desk, mask, mode).up
    sizes = {f"model/{name}": value.element_size() for name, value in model.state_dict().items()}
    kept = sum(schema.kept(entry) * sizes[entry.name] for entry in schema.entries)
    return int(HEADER.size + kept)


def table(savings: Sequence[Saving]) -> str:
    """Draw one row per model, rate and way to prune."""
    lines = [
        "| model | q | pruning | dense step, s | faster than dense (CPU) | than masked (CPU) | "
        "memory, % | parameters, % | sliced payload, % | masked payload, % |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for one in savings:
        wall = {variant: statistics.median(times) for variant, times in one.wall.items()}
        cpu = {variant: statistics.median(times) for variant, times in one.cpu.items()}
        ratios = [
            f"{wall[other] / wall['small']:.1f} ({cpu[other] / cpu['small']:.1f})"
            for other in ("dense", "masked")
        ]
        shares = (one.memory, one.parameters, one.sliced_bytes, one.masked_bytes)
        way = "coupled" if one.coupled else "independent"
        cells = [one.model, f"{one.rate:g}", way, f"{wall['dense']:.2f}", *ratios]
        lines.append(f"| {' | '.join([*cells, *(f'{100 * share:.1f}' for share in shares)])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
