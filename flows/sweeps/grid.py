"""A sweep before it runs: a grid of settings, its cells, and which is compared with which.

    name: rates                              # of the sweep; the file's if not given
    preset: fedx_protocol                    # of each cell's method; or `preset` in a block
    base: {federation.rounds: 20}            # settings of every cell, over params.yaml and preset
    grid:                                    # one block, or a list of them
      - {method.name: fedavg, seed: [1, 2, 3]}
      - {method.name: fedx, method.pruning_rate: [0.5, 0.9], seed: [1, 2, 3]}
    baseline: {method.name: fedavg}          # what differences are taken to

A block's cells are all combinations of its values. Everything here is a pure function of two files.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedx_core.base import config, strict_json, strict_yaml
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError
from fedx_core.base.nearest import hint
from flows.runs.run_folder import checked
from flows.settings import preset

KEYS = ("name", "preset", "base", "grid", "baseline")
PRESET = "preset"
SHORT = {"method.pruning_rate": "q", "federation.rounds": "r", "method.warmup_rounds": "v"}
SEED = "seed"
METHOD = "method.name"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Args:
        run: its name.
        label: its method, and the settings that not all cells of that method have alike; cells of
            one label differ in the seed alone. Names of runs say all settings, so that a grid can
            grow.
        axes: the settings that the grid gives it, by dotted path.
        settings: all of them.
    """

    run: str
    label: str
    axes: Mapping[str, Any]
    settings: ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sweep.

    Args:
        name: what its runs' names begin with.
        cells: at least one.
        baseline: settings of the cells that others are compared with; empty compares none.
        seed: by which data are partitioned; that of the settings before the grid.
    """

    name: str
    cells: tuple[Cell, ...]
    baseline: Mapping[str, Any]
    seed: int


def load(path: Path, params: Path) -> Grid:
    """Read a grid and check every cell of it.

    Args:
        path: of the grid.
        params: the settings that it changes.

    Raises:
        ConfigError: a file is missing, a key or a value is wrong, or two cells are the same.
    """
    raw, settings = _mapping(path), _mapping(params)
    if unknown := sorted(set(raw) - set(KEYS)):
        raise ConfigError(
            f"{path}: no key {unknown[0]!r} in a grid; {hint(unknown[0], KEYS)}"
            f"it takes {', '.join(KEYS)}"
        )
    blocks = raw.get("grid")
    blocks = blocks if isinstance(blocks, list) else [blocks]
    if not blocks or not all(isinstance(block, dict) and block for block in blocks):
        raise ConfigError(
            f"{path}: grid must be a block of settings with their values, or a list of such "
            "blocks; docs/how_to/sweep.md has one"
        )
    base, baseline = raw.get("base") or {}, raw.get("baseline") or {}
    if not isinstance(base, dict) or not isinstance(baseline, dict):
        raise ConfigError(
            f"{path}: base and baseline are settings by dotted path, such as training.epochs: 1"
        )
    name, plain = checked(str(raw.get("name", path.stem))), config.override(settings, base)
    cells = tuple(
        _cell(name, _starting(settings, base, block, axes, raw.get(PRESET)), axes)
        for block in blocks
        for axes in _combinations(block)
    )
    _refuse_twins(cells)
    cells = _labelled(cells)
    known = {axis for cell in cells for axis in cell.axes}
    baseline = {path: _as_read(cells, path, value) for path, value in baseline.items()}
    if missing := [axis for axis in baseline if axis not in known]:
        raise ConfigError(
            f"{path}: baseline names {', '.join(missing)}, which the grid does not give; "
            f"{hint(missing[0], known)}choose of {', '.join(sorted(known))}"
        )
    return Grid(name=name, cells=cells, baseline=baseline, seed=int(plain.get(SEED, 0)))


def partner(grid: Grid, cell: Cell) -> Cell | None:
    """Return the baseline's cell that differs from this one in method and baseline alone.

    Returns:
        None for a cell of the baseline, and where the grid has no such cell.

    Raises:
        ConfigError: several fit.
    """
    if not grid.baseline or _is_baseline(grid, cell):
        return None
    around = _around(grid, cell)
    found = [
        other
        for other in grid.cells
        if _is_baseline(grid, other) and _around(grid, other) == around
    ]
    if len(found) > 1:
        raise ConfigError(
            f"baseline fits {' and '.join(c.run for c in found[:2])} for {cell.run}; "
            "name more of its settings"
        )
    return found[0] if found else None


def _mapping(path: Path) -> dict[str, Any]:
    try:
        raw = strict_yaml.read(path)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}; name another file") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} must hold one mapping, got {type(raw).__name__}; docs/how_to/sweep.md has a "
            "grid"
        )
    return raw


def _combinations(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    axes = {str(path): value for path, value in block.items() if path != PRESET}
    choices = [value if isinstance(value, list) else [value] for value in axes.values()]
    for values in itertools.product(*choices):
        yield dict(zip(axes, values, strict=True))


def _starting(
    settings: Mapping[str, Any],
    base: Mapping[str, Any],
    block: Mapping[str, Any],
    axes: Mapping[str, Any],
    usual: str | None,
) -> Mapping[str, Any]:
    """Return a cell's settings before its axes: the file's, its method's preset, the base."""
    name = block.get(PRESET, usual)
    if name is None:
        return config.override(settings, base)
    plain = config.override(settings, base)
    method = axes.get(METHOD, plain.get("method", {}).get("name", ""))
    return config.override(config.override(settings, preset.settings(str(name), method)), base)


def _cell(sweep: str, plain: Mapping[str, Any], given: Mapping[str, Any]) -> Cell:
    try:
        settings = config.parse(config.override(plain, given))
    except ConfigError as error:
        said = "-".join(_word(path, value) for path, value in given.items() if path != SEED)
        raise type(error)(f"cell {said} of the grid: {error}") from error
    # As they were read, so that 0.5 and "5e-1" are one value with one name.
    axes = {path: config.value(settings, path) for path in given}
    words = [_word(path, value) for path, value in axes.items() if path != SEED]
    run = "-".join([sweep, *words, *([f"s{axes[SEED]}"] if SEED in axes else [])])
    return Cell(run=checked(run), label="", axes=axes, settings=settings)


def _as_read(cells: Sequence[Cell], path: str, value: Any) -> Any:
    """Return a value of the baseline as the first cell would read it; as it is if it can't."""
    for cell in cells:
        try:
            settings = config.parse(config.override(config.as_plain(cell.settings), {path: value}))
        except ConfigError:
            continue
        return config.value(settings, path)
    return value


def _labelled(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Call each cell by its method and by what tells it from others of that method."""
    alike: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[cell.axes.get(METHOD)].append(cell)

    def tells(path: str, cell: Cell) -> bool:
        others = alike[cell.axes.get(METHOD)]
        return path == METHOD or any(c.axes.get(path) != cell.axes[path] for c in others)

    return tuple(
        replace(cell, label="-".join(words) or "all")
        for cell in cells
        for words in [[_word(p, v) for p, v in cell.axes.items() if p != SEED and tells(p, cell)]]
    )


def _word(path: str, value: Any) -> str:
    """Say a setting in one word of a file's name."""
    leaf = path.rpartition(".")[2]
    if isinstance(value, Mapping):
        parts = (_word(f"{path}.{key}", inner) for key, inner in value.items())
        return "-".join(parts)
    said = f"{value:g}" if isinstance(value, float) else str(value)
    word = said if leaf in ("name", "dataset") else f"{SHORT.get(path, leaf)}{said}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-")


def _refuse_twins(cells: Sequence[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        content = strict_json.dumps(config.as_plain(cell.settings), sort_keys=True)
        for key in (cell.run, content):
            if key in seen:
                raise ConfigError(
                    f"two cells of the grid are the same, {seen[key]} and {cell.run}; leave one out"
                )
            seen[key] = cell.run


def _is_baseline(grid: Grid, cell: Cell) -> bool:
    return all(cell.axes.get(path) == value for path, value in grid.baseline.items())


def _around(grid: Grid, cell: Cell) -> str:
    axes: Iterable[tuple[str, Any]] = sorted(cell.axes.items())
    kept = {p: v for p, v in axes if not p.startswith("method.") and p not in grid.baseline}
    return strict_json.dumps(kept, sort_keys=True)
