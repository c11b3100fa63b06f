"""What data cost on the way from files to a training step, on real images.

    python benchmarks/data.py [--shared FOLDER] [--repeats N] [--only NAME ...] [--output FILE]

Prepares all of EuroSAT, opens its training part as a shard, sets what normalising and flipping take
beside a training step, and prepares BigEarthNet's real patches over and over. Prints a Markdown
table of medians and keeps every number as JSON. What needs a file that is not there is left out,
and said so.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import psutil
import torch

from fedx_core.base.config import TrainingConfig
from fedx_core.data import bigearthnet, eurosat
from fedx_core.data._files import Folder
from fedx_core.data._metadata import BANDS, CLASS_NAMES
from fedx_core.data.base import shared_data
from fedx_core.images import examples, set_folder
from fedx_core.images.examples import Description, Examples, ImageStream
from fedx_core.images.pixels import Pixels
from fedx_core.learning import training
from fedx_core.models import catalogue

EUROSAT, PATCHES = "eurosat_rgb.zip", "bigearthnet_real_mini.zip"
ALL_PATCHES = 480_038
SETTINGS = TrainingConfig(
    epochs=1, batch_size=64, learning_rate=0.001, weight_decay=0.0, flips=True,
    normalisation="published", batch_norm="aggregate", eval_batch_size=64, device="cpu", amp=False,
    threads=1, memory_format="contiguous",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        what: was measured.
        values: one a repeat, in ``unit``.
        unit: of the values.
        target: of the median; empty where there is none.
    """

    what: str
    values: list[float]
    unit: str
    target: str = ""


def main() -> None:
    """Measure what is asked for and print the table."""
    measures = {
        "eurosat": eurosat_prepared, "open": shard_opened, "step": share_of_a_step,
        "bigearthnet": bigearthnet_prepared,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=None, help="folder with the two zips")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(measures), default=list(measures))
    parser.add_argument("--images", type=int, default=0, help="of EuroSAT; 0 takes all")
    parser.add_argument("--patches", type=int, default=1000, help="of BigEarthNet, repeated")
    parser.add_argument("--output", type=Path, default=Path("build/data.json"))
    options = parser.parse_args()
    shared = options.shared or shared_data()
    figures: list[Figure] = []
    for name in options.only:
        wanted = {"eurosat": EUROSAT, "open": EUROSAT, "bigearthnet": PATCHES}.get(name)
        if wanted and not (shared / wanted).exists():
            print(f"{name} is left out: no {shared / wanted}; name its folder with --shared")
            continue
        count = options.patches if name == "bigearthnet" else options.images
        figures += measures[name](shared, options.repeats, count)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    print(table(figures))
    print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; {options.output}")


def eurosat_prepared(shared: Path, repeats: int, limit: int) -> list[Figure]:
    """Read, decode, hash and write the three splits."""
    wall, cpu = [], []
    count = 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="fedx-bench-") as folder:
            started, spent = time.perf_counter(), time.process_time()
            count = _prepare(shared, Path(folder), limit)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - spent)
    what = f"EuroSAT, {count} JPEGs: prepared"
    return [Figure(what, wall, "s", "6" if not limit else ""), Figure(f"{what}, CPU", cpu, "s")]


def _prepare(shared: Path, folder: Path, limit: int) -> int:
    data_set = eurosat.DataSet(source=str(shared / EUROSAT), splits="random", limit=limit)
    source = data_set.open()
    streams = data_set.streams(source)
    set_folder.write(folder / "prepared", source.description, streams, {})
    return sum(map(len, streams.values()))


def shard_opened(shared: Path, repeats: int, limit: int) -> list[Figure]:
    """Open the training part, which is mapped and not read."""
    with tempfile.TemporaryDirectory(prefix="fedx-bench-") as folder:
        _prepare(shared, Path(folder), limit)
        found = []
        for _ in range(max(repeats, 20)):
            started = time.perf_counter()
            part = set_folder.read_part(Path(folder) / "prepared", "train")
            found.append(1000 * (time.perf_counter() - started))
        if not isinstance(part.images, np.memmap):
            raise SystemExit("images were copied, not mapped")
        return [Figure(f"a shard of {len(part)} images: opened", found, "ms", "50")]


def share_of_a_step(shared: Path, repeats: int, limit: int) -> list[Figure]:
    """Take batches as training does, and train on them; 64 images of 3 x 64 x 64, one thread."""
    torch.set_num_threads(1)
    random = np.random.default_rng(1)
    part = Examples(
        images=random.integers(0, 256, (256, 3, 64, 64), dtype=np.uint8),
        labels=random.integers(0, 10, 256),
        groups=np.zeros(256, dtype=np.int16),
    )
    pixels = Pixels(
        scale=255.0, mean=eurosat.RGB_MEAN, std=eurosat.RGB_STD, input_size=None,
        memory_format="contiguous",
    )  # fmt: skip

    def inputs() -> None:
        for images, _ in training.batches(part, SETTINGS, seed=1):
            pixels.to_input(images, torch.device("cpu"))

    figures = []
    for name in ("resnet6", "resnet18"):
        model = catalogue.build(name, 3, 10, seed=1)

        def steps(model: torch.nn.Module = model) -> None:
            training.fit(model, part, label_kind="single", pixels=pixels, settings=SETTINGS, seed=1)

        steps()
        shares = [100 * _cpu_seconds(inputs) / _cpu_seconds(steps) for _ in range(repeats)]
        what = f"{name}: normalising and flipping, of a step's CPU time"
        figures.append(Figure(what, shares, "%", "5" if name == "resnet18" else ""))
    return figures


def bigearthnet_prepared(shared: Path, repeats: int, count: int) -> list[Figure]:
    """Read ten bands of each real patch, again and again, and write them as they come."""
    with tempfile.TemporaryDirectory(prefix="fedx-bench-") as name:
        folder = Path(name)
        patches = _unpacked(shared / PATCHES, folder / "raw")
        speeds, cpu, grown = [], [], []
        here = psutil.Process()
        for _ in range(repeats):
            before, peak = here.memory_info().rss, 0

            def watched(images: Iterator[examples.Image]) -> Iterator[examples.Image]:
                nonlocal peak
                for number, image in enumerate(images):
                    if number % 50 == 0:
                        peak = max(peak, here.memory_info().rss)
                    yield image

            read = bigearthnet._read(
                Folder(folder / "raw"), ".", patches, "nearest",
                np.arange(count, dtype=np.int64) % len(patches),
            )  # fmt: skip
            started, spent = time.perf_counter(), time.process_time()
            stream = ImageStream(
                watched(read),
                np.zeros((count, len(CLASS_NAMES)), np.uint8),
                np.zeros(count, np.int16),
            )
            set_folder.write(folder / "prepared", _description(), {"train": stream}, {})
            speeds.append(count / (time.perf_counter() - started))
            cpu.append(1000 * (time.process_time() - spent) / count)
            grown.append((peak - before) / 1e6)
    what = f"BigEarthNet, {len(patches)} real patches, {count} in all: prepared"
    hours = [ALL_PATCHES / speed / 3600 for speed in speeds]
    return [
        Figure(what, speeds, "patches/s"),
        Figure("one patch, CPU", cpu, "ms"),
        Figure(f"all {ALL_PATCHES:,} at that speed", hours, "h"),
        Figure("memory that it takes", grown, "MB"),
    ]


def _unpacked(path: Path, folder: Path) -> list[str]:
    """Lay the patches of both releases out as the second one has them; return their names."""
    patches = set()
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            place = PurePosixPath(name)
            patch, _, band = place.stem.rpartition("_")
            if place.suffix == ".tif" and band in BANDS and place.parent.name == patch:
                target = folder / patch.rsplit("_", 2)[0] / patch / place.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read(name))
                patches.add(patch)
    return sorted(patches)


def _description() -> Description:
    return Description(
        name="patches",
        bands=BANDS,
        class_names=CLASS_NAMES,
        label_kind="multi",
        image_size=bigearthnet.SIDE,
        scale=bigearthnet.REFLECTANCE,
    )


def _cpu_seconds(action: Callable[[], None]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def table(figures: Sequence[Figure]) -> str:
    """Draw the medians."""
    lines = ["| what | median | fastest to slowest | target |", "| --- | --: | --: | --: |"]
    for figure in figures:
        low, middle, high = (
            f"{value:.3g}"
            for value in (min(figure.values), statistics.median(figure.values), max(figure.values))
        )
        lines.append(
            f"| {figure.what} | {middle} {figure.unit} | {low} to {high} | {figure.target} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
