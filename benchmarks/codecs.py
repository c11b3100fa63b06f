"""How fast codecs are, and what they keep of a change: megabytes of float32 a second of a core.

    python benchmarks/codecs.py
    python benchmarks/codecs.py --model resnet18 --repeats 5

Values are drawn as Adam's changes are spread: normal, of another size in each layer. Encoding
counts what is left out, and decoding the checksum; times are of the processor, so that what else
the machine does slows nothing down. Prints a table.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedx_core.base import plugins, seeding, state
from fedx_core.base.state import Payload
from fedx_core.codec.base import Codec
from fedx_core.models import catalogue
from fedx_core.wire.messages import Entry, Schema

CODECS: Sequence[tuple[str, dict[str, Any]]] = (
    ("dense", {}),
    ("deadzone", {"bits": 2.0}),
    ("deadzone", {"bits": 1.28}),
    ("deadzone", {"bits": 0.64}),
    ("signs", {}),
    ("topk", {"density": 0.01}),
    ("quantised", {"levels": 7}),
)


@dataclass(frozen=True)
class Speed:
    """One codec's figures.

    Args:
        bits: of a value, with header and tables.
        encode: megabytes of float32 a second.
        decode: the same.
        lost: share of the change's energy that is left for later.
    """

    bits: float
    encode: float
    decode: float
    lost: float


def changes(model: str) -> tuple[Payload, Schema]:
    """Draw a change of a model's parameters."""
    random = seeding.torch_generator(1)
    payload = {
        f"model/{name}": torch.randn(value.shape, generator=random)
        * float(torch.rand((), generator=random) + 0.5)
        * 1e-3
        for name, value in catalogue.build(model, 3, 10, seed=1).named_parameters()
    }
    entries = tuple(Entry(n, str(v.dtype), tuple(v.shape)) for n, v in payload.items())
    return payload, Schema(entries)


def speed(codec: Codec, payload: Payload, schema: Schema, repeats: int) -> Speed:
    """Time a codec on one payload; the best of some repeats."""
    size = state.count(payload)
    data, _ = codec.encode(payload, schema, {}, 1)
    received = codec.decode(data, schema)
    lost = state.norm(state.subtract(payload, received)) / state.norm(payload)
    megabytes = 4 * size / 1e6
    return Speed(
        bits=8 * len(data) / size,
        encode=megabytes / _fastest(lambda: codec.encode(payload, schema, {}, 1), repeats),
        decode=megabytes / _fastest(lambda: codec.decode(data, schema), repeats),
        lost=lost**2,
    )


def _fastest(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return max(min(times), 1e-9)


def main() -> None:
    """Time all codecs, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet18", choices=catalogue.names())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    payload, schema = changes(options.model)
    print(f"{options.model}, {state.count(payload):,} parameters\n")
    print("| codec | bits a value | encode MB/s | decode MB/s | left for later |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, params in CODECS:
        found = speed(plugins.build("codec", name, params), payload, schema, options.repeats)
        said = " ".join([name, *(f"{key} {value}" for key, value in params.items())])
        print(
            f"| {said} | {found.bits:.3f} | {found.encode:.0f} | {found.decode:.0f} |"
            f" {100 * found.lost:.1f} % |"
        )


if __name__ == "__main__":
    main()
