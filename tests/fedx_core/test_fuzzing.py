"""A million mutations of what comes from outside: every one taken or refused by name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fuzzing
from long_tier import measured, times
from outside import Reader

ROOT = Path(__file__).parent.parent.parent
COUNTS = {"updates": 600_000, "states": 200_000, "messages": 200_000}


def attacked(family: str, count: int, seed: int) -> dict[str, Any]:
    """Attack in a process of its own, whose memory nobody else uses."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzzing.py"), family, str(count), str(seed)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def check(found: dict[str, Any], count: int) -> None:
    assert found["untyped"] == []
    assert found["mib"] <= 64
    codes = found["codes"]
    assert sum(sum(seen.values()) for seen in codes.values()) == count
    for name, seen in codes.items():
        # Changes that do no harm are there, and they are few; refusals have several reasons.
        assert 0 < seen["taken"] < sum(seen.values()) / 3, name
        assert len(seen) >= 3 or name in ("evaluation", "plan", "record"), name


def test_the_counts_of_every_run_make_a_million() -> None:
    assert sum(COUNTS.values()) == 1_000_000
    for targets in fuzzing.families().values():
        assert sum(target.share for target in targets.values()) == pytest.approx(1)


@pytest.mark.parametrize("family", COUNTS)
def test_a_million_mutations_raise_nothing_but_errors_of_ours_in_bounded_memory(
    family: str,
) -> None:
    check(attacked(family, COUNTS[family], seed=20_261_121), COUNTS[family])


@pytest.mark.long
@pytest.mark.parametrize("family", COUNTS)
def test_ten_million_other_mutations_raise_nothing_but_errors_of_ours(family: str) -> None:
    count = times(10 * COUNTS[family])
    check(attacked(family, count, seed=7), count)
    measured(f"mutations of {family}", all=count, errors_of_others=0)


def test_the_attack_finds_a_reader_that_trips() -> None:
    def trips(data: bytes) -> int:
        return json.loads(data)["a"]

    target = fuzzing.Target(Reader(trips, (b'{"a":1}',)), (fuzzing.of_json,), 1.0)
    codes, untyped = fuzzing.attack(target, 200, 1)
    assert codes["untyped"] > 50
    assert any("KeyError" in said for said in untyped)
