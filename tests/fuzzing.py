"""Mutations of what comes from outside: bits, bytes, fields and words, framed anew.

Run as a program it works in a process of its own, whose memory nobody else uses, and prints JSON:

    python tests/fuzzing.py updates 600000 1
"""

import json
import re
import resource
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fedx_core.base.errors import FedXError
from fedx_core.sites.keys import seal
from outside import (
    CHOSEN,
    COORDINATOR,
    HEADER,
    LOSSY,
    MASK,
    SCHEMAS,
    SITE,
    Reader,
    framed,
    readers,
    tensor_file,
)

Draws = list[int]
Mutator = Callable[[bytes, Draws], bytes]

NUMBERS = [
    n.to_bytes(8, "little")
    for n in (0, 1, 2, 7, 63, 64, 65, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32,
              2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
] + [struct.pack("<d", x) for x in (0.0, 1e308, float("inf"), float("-inf"), float("nan"))] + [
    struct.pack("<ff", x, x) for x in (3e38, float("inf"), float("nan"))
]  # fmt: skip
WORDS = [
    "0", "-0", "-1", "1", "2", "41", "1e308", "-1e-320", "1e999", "-1e999", "0.5", "NaN",
    "Infinity", "-Infinity", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "1" * 5000, "true", "false", "null", '""', '"x"', '"../../x"', '"/etc/passwd"', '"a\\u0000b"',
    '"\\ud800"', '"\\ud83d\\ude00"', '"é"', '"' + "a" * 300 + '"', '"F32"', '"BF17"', '"BOOL"',
    '"units"', '"train"', '"evaluate"', '"north"', '"south"', '"uplink/0002/south.1"', "[]", "{}",
    "[[]]", "[0,0]", "[1,2]", "[" * 40 + "]" * 40, "[" * 5000, '{"a":1,"a":2}',
    '{"__metadata__":{}}', "[null]", "[-1]", "[1e400]", "[2147483648,2147483648,2147483648]",
    '"\\', '"', "\\", ",", ":", "{", "}", "[", "]",
]  # fmt: skip
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


@dataclass(frozen=True)
class Target:
    """A reader, ways to change what it reads, and how often.

    Args:
        reader: see :class:`outside.Reader`.
        mutators: taken in turn.
        share: of a family's mutations.
    """

    reader: Reader
    mutators: tuple[Mutator, ...]
    share: float


def of_bytes(data: bytes, draws: Draws) -> bytes:
    """Change bits, bytes and lengths anywhere."""
    kind, place, size, choice, *more = draws
    changed = bytearray(data)
    at = place % (len(data) or 1)
    span = size % 24 + 1
    match kind % 8:
        case 0:
            changed[at] ^= 1 << choice % 8
        case 1:
            changed[at] = choice % 256
        case 2:
            number = NUMBERS[choice % len(NUMBERS)][: (1, 2, 4, 8)[size % 4]]
            changed[at : at + len(number)] = number
        case 3:
            del changed[at:]
        case 4:
            del changed[at : at + span]
        case 5:
            changed[at:at] = changed[at : at + span]
        case 6:
            changed += bytes([choice % 256]) * span
        case 7:
            for draw in more:
                changed[draw % len(changed)] ^= 1 << draw % 7
    return bytes(changed)


def of_fields(data: bytes, draws: Draws) -> bytes:
    """Change one field of a frame's header, or of the eight bytes before any other."""
    kind, _, size, choice, *_ = draws
    starts = (0, 4, 6, 8, 16, 48, 56, 60)
    start = starts[kind % len(starts)]
    number = NUMBERS[choice % len(NUMBERS)][: (1, 2, 4, 8)[size % 4]]
    return data[:start] + number + data[start + len(number) :]


def of_body(schema: object, codec: str) -> Mutator:
    """Change what a frame holds, and frame it again as a lying sender would."""

    def mutate(data: bytes, draws: Draws) -> bytes:
        return framed(schema, of_bytes(data[HEADER.size :] or b"\0", draws), codec)

    return mutate


def of_values(schema: object, codec: str) -> Mutator:
    """Change what a frame holds, its length not."""

    def mutate(data: bytes, draws: Draws) -> bytes:
        body = bytearray(data[HEADER.size :])
        number = NUMBERS[draws[3] % len(NUMBERS)]
        at = draws[1] % len(body)
        body[at : at + 8] = number[: len(body) - at]
        return framed(schema, bytes(body), codec)

    return mutate


def of_words(text: str, draws: Draws) -> str:
    """Change JSON word by word: replace, swap, leave out, say twice."""
    kind, place, other, choice, *_ = draws
    words = _words(text)
    changed = list(words)
    at, to = place % len(words), other % len(words)
    match kind % 5:
        case 0 | 1:
            changed[at] = WORDS[choice % len(WORDS)]
        case 2:
            changed[at], changed[to] = changed[to], changed[at]
        case 3:
            del changed[at : at + choice % 6 + 1]
        case 4:
            changed[to:to] = changed[at : at + choice % 12 + 1]
    return "".join(changed)


_known: dict[str, list[str]] = {}


def _words(text: str) -> list[str]:
    return _known.setdefault(text, _WORD.findall(text))


def of_json(data: bytes, draws: Draws) -> bytes:
    """Change words of a message."""
    return of_words(data.decode(), draws).encode()


def of_header(data: bytes, draws: Draws) -> bytes:
    """Change words of a safetensors header, and say its length anew."""
    length = int.from_bytes(data[:8], "little")
    header = of_words(data[8 : 8 + length].decode(), draws).encode()
    return tensor_file(header, data[8 + length :])


def of_signed(data: bytes, draws: Draws) -> bytes:
    """Change words of a manifest or note, and sign it as the site that lies."""
    head, tail = data.index(b"\0") + 1, 64
    said = data[head:-tail].rstrip(b" ")
    changed = of_words(said.decode(), draws).encode()
    return SITE.signed(
        data[5 : data.index(b"/", 5)].decode(), changed.ljust(len(data) - head - tail)
    )


def of_order(data: bytes, draws: Draws) -> bytes:
    """Change words of an order, sign and seal it."""
    said = SITE.open(data)[len(b"FEDX/order/1\0") : -64]
    return seal(SITE.public, COORDINATOR.signed("order", of_words(said.decode(), draws).encode()))


def families() -> dict[str, dict[str, Target]]:
    """Name the targets by family; each family runs in a process of its own."""
    known = readers()
    frames = {**dict.fromkeys(SCHEMAS), "chosen": CHOSEN, "mask": MASK, **SCHEMAS}
    codecs = {"chosen": "sliced", "mask": "mask"}

    def framed(name: str) -> tuple[Mutator, ...]:
        schema, codec = frames[name], codecs.get(name, name)
        return (
            *(of_bytes, of_fields) * 3,
            of_body(schema, codec),
            of_values(schema, codec),
        )

    return {
        "updates": {
            name: Target(known[name], framed(name), share)
            for name, share in (
                ("dense", 0.2), ("masked", 0.1), ("sliced", 0.1), ("chosen", 0.1), ("mask", 0.1),
                *((codec, 0.4 / len(LOSSY)) for codec in LOSSY),
            )
        },
        "states": {
            name: Target(known[name], (of_bytes, of_header, of_header), 0.5)
            for name in ("state", "tensors")
        },
        "messages": {
            **{
                name: Target(known[name], (of_bytes, of_json, of_json, of_json), share)
                for name, share in (
                    ("report", 0.25), ("evaluation", 0.15), ("plan", 0.25), ("record", 0.15),
                )
            },
            "manifest": Target(known["manifest"], (of_bytes, of_signed), 0.1),
            "note": Target(known["note"], (of_bytes, of_signed), 0.05),
            "order": Target(known["order"], (of_bytes, of_order), 0.05),
        },
    }  # fmt: skip


def _drawn(seed: int, count: int) -> Iterator[Draws]:
    random = np.random.default_rng(seed)
    for start in range(0, count, 4096):
        yield from random.integers(0, 2**32, (min(4096, count - start), 8)).tolist()


def attack(target: Target, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Hand mutations to a reader.

    Returns:
        How often it refused with which code (``taken`` where it did not), and what else it raised.
    """
    codes: Counter[str] = Counter()
    untyped: list[str] = []
    sound, mutators = target.reader.sound, target.mutators
    for number, draws in enumerate(_drawn(seed, count)):
        data = mutators[number % len(mutators)](sound[draws[7] % len(sound)], draws)
        try:
            target.reader.read(data)
            codes["taken"] += 1
        except FedXError as error:
            codes[error.code] += 1
        except Exception as error:  # this is what is looked for
            codes["untyped"] += 1
            if len(untyped) < 20:
                untyped.append(f"{type(error).__name__}: {error!s:.200} on {data[:400]!r}")
    return codes, untyped


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(family: str, count: int, seed: int) -> None:
    """Attack all targets of a family, and print what came of it."""
    targets = families()[family]
    for target in targets.values():
        for data in target.reader.sound:
            target.reader.read(data)
        attack(target, 200, seed + 1)
    before = _peak()
    found = {
        name: attack(target, round(count * target.share), seed + number)
        for number, (name, target) in enumerate(targets.items())
    }
    print(
        json.dumps(
            {
                "codes": {name: dict(codes) for name, (codes, _) in found.items()},
                "untyped": [
                    f"{name}: {said}" for name, (_, all_) in found.items() for said in all_
                ],
                "mib": _peak() - before,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
