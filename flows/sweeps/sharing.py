"""Which runs a sweep needs: its cells, and first rounds that several of them share."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from fedx_core.base import config, plugins, strict_json
from fedx_core.base.config import ExperimentConfig, Plugin
from flows.sweeps.grid import Cell, Grid


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


def without_rounds(settings: ExperimentConfig) -> dict[str, Any]:
    """Return what a run computes a round by; data sets other than its own are left out."""
    plain: dict[str, Any] = config.as_plain(settings)
    plain["datasets"] = {settings.dataset: plain["datasets"][settings.dataset]}
    plain["federation"].pop("rounds")
    plain.pop("prepare")
    return plain


def _shares(settings: ExperimentConfig) -> bool:
    """Whether a run's rounds before its pruning event may come from another run."""
    return (
        settings.method.name in ("fedx", "fedavg")
        and settings.training.batch_norm != "local"
        and settings.training.optimiser_state == "fresh"
        and not config.follows_length(settings.training)
        and settings.federation.selection is None
        and not any(
            plugins.load("codec", way.name).lossy
            for way in (settings.codec.down, settings.codec.up)
        )
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
    return strict_json.dumps(plain, sort_keys=True)


def _fedavg_until(settings: ExperimentConfig, rounds: int) -> ExperimentConfig:
    return replace(
        settings,
        method=Plugin(name="fedavg"),
        federation=replace(settings.federation, rounds=rounds),
    )
