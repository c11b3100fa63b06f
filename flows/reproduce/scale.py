"""A figure's grid for other data, rounds and seeds, and for a dry run of minutes.

Grids stay grids: what comes out is written down, and ``fedx sweep`` and ``fedx compare`` take it.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.comparing.points import RATES, STRENGTHS
from flows.settings import preset

ROUNDS = 20
"""Of the paper's experiments."""
DRY_ROUNDS, DRY_IMAGES = 2, 400
IN_ROUNDS = (
    "method.warmup_rounds", "method.adjust_until", "method.target_round", "method.iterations",
)  # fmt: skip
"""Settings that count rounds of a run, and so shrink with them."""

Raw = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a figure's grid is to be changed.

    Args:
        dataset: a key of ``datasets``; None leaves the paper's.
        rounds: of each run; None leaves the paper's. What counts rounds shrinks likewise.
        seeds: how many, from 1; None leaves the grid's.
        overrides: other settings by dotted path; a list is tried value by value.
        dry: two rounds of a few images at two rates, to see that all works.
    """

    dataset: str | None = None
    rounds: int | None = None
    seeds: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    dry: bool = False


def scaled(raw: Mapping[str, Any], scale: Scale) -> Raw:
    """Change a grid; its own blocks where they give a setting, or else what all cells start from.

    Args:
        raw: a grid, as in a file.
        scale: see :class:`Scale`.
    """
    grid: Raw = {**copy.deepcopy(dict(raw)), "base": dict(raw.get("base") or {})}
    if scale.dataset is not None:
        _set(grid, "dataset", scale.dataset)
    if scale.seeds is not None:
        _set(grid, "seed", list(range(1, scale.seeds + 1)))
    if scale.dry:
        _dry(grid)
    for path, value in scale.overrides.items():
        _set(grid, path, value)
    rounds = scale.rounds or (DRY_ROUNDS if scale.dry else None)
    if rounds is not None:
        grid["base"]["federation.rounds"] = rounds
        grid["grid"] = [new for block in grid["grid"] for new in _in_rounds(block, grid, rounds)]
        if not scale.dry:
            grid["name"] = f"{grid['name']}-r{rounds}"
    return grid


def _set(grid: Raw, path: str, value: Any) -> None:
    """Replace a setting in the blocks that give it, or else in the base."""
    blocks = [block for block in grid["grid"] if path in block]
    for block in blocks or [grid["base"]]:
        block[path] = value


def _dry(grid: Raw) -> None:
    grid["name"] = f"{grid['name']}-dry"
    base: Raw = {"training.epochs": 1, "training.batch_size": 32}
    for dataset in {name: None for block in grid["grid"] for name in _listed(block["dataset"])}:
        base[f"datasets.{dataset}.source.limit"] = DRY_IMAGES
        base[f"datasets.{dataset}.reference"] = {"per_class": 1, "absent": "skip"}
        if dataset == "bigearthnet":
            # Of a few patches a country may have one, and BatchNorm trains on no fewer than two.
            base[f"datasets.{dataset}.partition"] = {"name": "by_country", "min_examples": 2}
    grid["base"] |= base
    for block in grid["grid"]:
        for path in (*RATES, *STRENGTHS):
            values = _listed(block.get(path, []))
            if len(values) > 2:
                block[path] = [values[len(values) // 2], values[-1]]


def _in_rounds(block: Raw, grid: Raw, rounds: int) -> Iterator[Raw]:
    """Part a block by method, and shrink what counts rounds in each one's preset."""
    name = str(block.get("preset", grid["preset"]))
    for method in _listed(block["method.name"]):
        own = preset.settings(name, method)["method"]
        counted = {path: own.get(path.removeprefix("method.")) for path in IN_ROUNDS}
        shorter = {
            path: max(1, round(value * rounds / ROUNDS))
            for path, value in counted.items()
            if value is not None
        }
        yield {**block, "method.name": method, **shorter}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]
