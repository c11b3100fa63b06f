"""Where a client's time goes beside its training: each step by itself, the best of some repeats.

    python benchmarks/steps.py [--models NAME ...] [--repeats N]

CPU milliseconds of one thread, dense payloads. Prints a Markdown table; the sums leave out what is
not done for each client. The best, since other load on the machine only ever adds.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jobs import CLASSES, JOBS, write

from fedx_core import allocator, examples, plugins, state
from fedx_core.aggregate import weighted_mean
from fedx_core.messages import ClientReport, Entry, Schema, canonical, parse
from fedx_core.models import catalogue
from fedx_core.store import FileStore, MemoryStore, reference

ON_FILES = "files: write, read back, and hash again"


def main() -> None:
    """Time the steps and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet6", "resnet18"])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as at a client
    allocator.keep_freed_memory()
    columns = [steps(name, options.repeats) for name in options.models]
    print(f"| step, CPU ms | {' | '.join(options.models)} |")
    print(f"| --- |{' --: |' * len(columns)}")
    for label in columns[0]:
        print(f"| {label} | {' | '.join(f'{column[label]:.2f}' for column in columns)} |")
    files = [sum(column.values()) for column in columns]
    memory = [sum(column.values()) - column[ON_FILES] for column in columns]
    print(f"| together, store in memory | {' | '.join(f'{one:.1f}' for one in memory)} |")
    print(f"| together, store of files | {' | '.join(f'{one:.1f}' for one in files)} |")


def steps(name: str, repeats: int) -> dict[str, float]:
    """Time each step for one model, in milliseconds."""
    model = catalogue.build(name, 3, CLASSES, seed=1)
    values = state.copy(model.state_dict())
    payload = state.as_section(values, "model")
    schema = Schema(tuple(Entry(n, str(v.dtype), tuple(v.shape)) for n, v in payload.items()))
    codec = plugins.build("codec", "dense", {})
    data = codec.encode(payload, schema)
    decoded = codec.decode(data, schema)
    report = ClientReport(
        client="client", attempt=0, purpose="train", uplink=reference("uplink/0001/client.0", data),
        examples=16, metrics={"train_loss": 1.0}, memory=None, seconds=1.0,
    )  # fmt: skip
    said = canonical(report)
    numbers = itertools.count()

    def best(step: Callable[[], object]) -> float:
        found = []
        for _ in range(repeats):
            started = time.thread_time()
            step()
            found.append(1000 * (time.thread_time() - started))
        return min(found)

    def many(count: int) -> Callable[[], object]:
        return lambda: weighted_mean((1.0, decoded) for _ in range(count))

    with tempfile.TemporaryDirectory(prefix="fedx-steps-") as folder:
        write(JOBS["tiny100"], Path(folder), clients=1)
        shard = next((Path(folder) / "shards").glob("client*"))
        files, memory = FileStore(Path(folder) / "store", durable=False), MemoryStore()

        def there_and_back() -> None:
            ref = files.create(f"uplink/{next(numbers)}", data)
            files.get(ref)
            files.delete(ref.key)

        in_memory = best(lambda: memory.put("uplink", data))
        return {
            "open the shard": best(lambda: examples.read_part(shard, "train")),
            "load the weights": best(lambda: state.load_(model, values)),
            "copy the trained weights": best(lambda: state.copy(model.state_dict())),
            "encode, with checksum": best(lambda: codec.encode(payload, schema)),
            "store it, with SHA-256": in_memory,
            ON_FILES: best(there_and_back) - in_memory,
            "decode, with checksum": best(lambda: codec.decode(data, schema)),
            "look for NaN": best(lambda: state.require_finite(decoded, name)),
            "add it up in float64": (best(many(5)) - best(many(1))) / 4,
            "write and read the report": best(
                lambda: (canonical(report), parse(ClientReport, json.loads(said)))
            ),
        }


if __name__ == "__main__":
    main()
