"""A sweep before it runs: a grid of settings, its cells, and the rounds that cells share.

    name: rates                              # of the sweep; the file's if not given
    base: {federation.rounds: 20}            # settings of every cell, over params.yaml
    grid:                                    # one block, or a list of them
      - {method.name: fedavg, seed: [1, 2, 3]}
      - {method.name: fedx, method.pruning_rate: [0.5, 0.9], seed: [1, 2, 3]}
    baseline: {method.name: fedavg}          # what differences are taken to

A block's cells are all combinations of its values. Everything here is a pure function of two files.
"""

import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedx_core import config
from fedx_core.config import ExperimentConfig, Plugin
from fedx_core.errors import ConfigError
from flows.run_folder import checked

KEYS = ("name", "base", "grid", "baseline")
SHORT = {"method.pruning_rate": "q", "federation.rounds": "r", "method.warmup_rounds": "v"}
SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Args:
        run: its name.
        label: what it is without its seed; cells of one label differ in the seed alone.
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


@dataclass(frozen=True, kw_only=True)
class Step:
    """A run that a sweep needs: a cell, or first rounds that several cells share.

    Args:
        run: its name.
        settings: of the run.
        is_cell: whether somebody asked for it.
        origin: ``RUN@ROUND`` that it branches from; empty starts anew.
    """

    run: str
    settings: ExperimentConfig
    is_cell: bool
    origin: str = ""

    @property
    def origin_run(self) -> str:
        """Name of the run that it branches from; empty where there is none."""
        return self.origin.rpartition("@")[0]


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
        raise ConfigError(f"{path}: unknown {', '.join(unknown)}; known are {', '.join(KEYS)}")
    blocks = raw.get("grid")
    blocks = blocks if isinstance(blocks, list) else [blocks]
    if not blocks or not all(isinstance(block, dict) and block for block in blocks):
        raise ConfigError(f"{path}: grid must be a block of settings with their values, or a list")
    base, baseline = raw.get("base") or {}, raw.get("baseline") or {}
    if not isinstance(base, dict) or not isinstance(baseline, dict):
        raise ConfigError(f"{path}: base and baseline are settings by dotted path")
    name, plain = checked(str(raw.get("name", path.stem))), config.override(settings, base)
    cells = tuple(_cell(name, plain, axes) for block in blocks for axes in _combinations(block))
    _refuse_twins(cells)
    known = {axis for cell in cells for axis in cell.axes}
    if missing := [axis for axis in baseline if axis not in known]:
        raise ConfigError(
            f"{path}: baseline names {', '.join(missing)}, which the grid does not give; "
            f"choose of {', '.join(sorted(known))}"
        )
    return Grid(name=name, cells=cells, baseline=baseline, seed=int(plain.get(SEED, 0)))


def steps(grid: Grid) -> tuple[Step, ...]:
    """Say which runs a sweep needs, each after the one that it branches from.

    Cells of FedX and FedAvg that are alike up to their pruning event get these rounds from a run
    of FedAvg, if there are two or more. Later events branch from where earlier ones left.
    """
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in grid.cells:
        if _shares(cell.settings):
            alike[_first_rounds(cell.settings)].append(cell)
    bases: list[Step] = []
    origins: dict[str, str] = {}
    for key, cells in alike.items():
        ends = sorted({end for cell in cells if (end := _warmup(cell.settings))})
        if len(cells) < 2 or not ends:
            continue
        before = ""
        for end in ends:
            shared = _fedavg_until(cells[0].settings, end)
            digest = hashlib.sha256(key.encode()).hexdigest()[:6]
            run = f"{grid.name}-base-{digest}-r{end}-s{shared.seed}"
            bases.append(Step(run=run, settings=shared, is_cell=False, origin=before))
            before = f"{run}@{end}"
            for cell in cells:
                own = _warmup(cell.settings) or cell.settings.federation.rounds
                if own == end or (cell.settings.method.name == "fedavg" and end < own):
                    origins[cell.run] = before
    return (
        *bases,
        *(
            Step(run=c.run, settings=c.settings, is_cell=True, origin=origins.get(c.run, ""))
            for c in grid.cells
        ),
    )


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


def without_rounds(settings: ExperimentConfig) -> dict[str, Any]:
    """Return what a run computes a round by; data sets other than its own are left out."""
    plain: dict[str, Any] = config.as_plain(settings)
    plain["datasets"] = {settings.dataset: plain["datasets"][settings.dataset]}
    plain["federation"].pop("rounds")
    plain.pop("prepare")
    return plain


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}; name another file") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold one mapping, got {type(raw).__name__}")
    return raw


def _combinations(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    choices = [value if isinstance(value, list) else [value] for value in block.values()]
    for values in itertools.product(*choices):
        yield dict(zip(map(str, block), values, strict=True))


def _cell(sweep: str, plain: Mapping[str, Any], axes: Mapping[str, Any]) -> Cell:
    words = [_word(path, value) for path, value in axes.items() if path != SEED]
    label = "-".join(words) or "all"
    try:
        settings = config.parse(config.override(plain, axes))
    except ConfigError as error:
        raise type(error)(f"cell {label} of the grid: {error}") from error
    run = "-".join([sweep, *words, *([f"s{axes[SEED]}"] if SEED in axes else [])])
    return Cell(run=checked(run), label=label, axes=axes, settings=settings)


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
        content = json.dumps(config.as_plain(cell.settings), sort_keys=True)
        for key in (cell.run, content):
            if key in seen:
                raise ConfigError(
                    f"two cells of the grid are the same, {seen[key]} and {cell.run}; leave one out"
                )
            seen[key] = cell.run


def _shares(settings: ExperimentConfig) -> bool:
    """Whether a run's rounds before its pruning event may come from another run."""
    return (
        settings.method.name in ("fedx", "fedavg")
        and settings.training.batch_norm != "local"
        and settings.training.optimiser_state == "fresh"
        and settings.federation.selection is None
        and _warmup(settings) < settings.federation.rounds
    )


def _warmup(settings: ExperimentConfig) -> int:
    """Return the rounds before the pruning event; 0 where there is none."""
    if settings.method.name != "fedx":
        return 0
    return int(settings.method.build("methods").warmup_rounds)


def _first_rounds(settings: ExperimentConfig) -> str:
    plain = without_rounds(settings)
    plain.pop("method")
    return json.dumps(plain, sort_keys=True)


def _fedavg_until(settings: ExperimentConfig, rounds: int) -> ExperimentConfig:
    return replace(
        settings,
        method=Plugin(name="fedavg"),
        federation=replace(settings.federation, rounds=rounds),
    )


def _is_baseline(grid: Grid, cell: Cell) -> bool:
    return all(cell.axes.get(path) == value for path, value in grid.baseline.items())


def _around(grid: Grid, cell: Cell) -> str:
    axes: Iterable[tuple[str, Any]] = sorted(cell.axes.items())
    kept = {p: v for p, v in axes if not p.startswith("method.") and p not in grid.baseline}
    return json.dumps(kept, sort_keys=True)
