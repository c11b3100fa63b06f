"""Every method's six trials on a small part of real EuroSAT: the tuning budget of `fedx_protocol`.

    python benchmarks/tuning.py                  # data, trials, table; started again it goes on
    python benchmarks/tuning.py --only feddst    # one method's; may be repeated
    python benchmarks/tuning.py --only-print

Trials are those of ``fedx methods NAME --tuning FILE``, in one grid; :data:`REDUCED` and
:data:`SHORTER` are what is smaller than the protocol. A client still takes eight steps per round,
where the protocol on all of EuroSAT takes twelve. The score is that of the tuning images after the
last round, when all that is pruned has gone; test images judge nothing. Prints the table of
``docs/methods.md``, and what ``flows/settings/presets/methods`` take over: a method's own settings,
from its best trial among those that leave alone what ``fedx_protocol`` has the same for all.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.settings import preset

REDUCED = {
    "datasets.eurosat.source.limit": 1600,  # 960 to train, 220 to tune, 100 of reference, 320 test
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.batch_norm": "recalibrate",
    "federation.rounds": 12,
}
SHORTER: Mapping[str, Mapping[str, Any]] = {
    "fedx": {"method.warmup_rounds": 6},
    "feddst": {"method.adjust_until": 9},
    "feddip": {"method.target_round": 12},
    "mpfl": {"method.iterations": 3, "method.prune_share": 0.4152},  # 80 % goes, in three votes
}
"""What is said in rounds in ``fedx_protocol``, at 12 rounds instead of 20."""
ORDER = (
    "fedx", "feddst", "feddip", "fedmap", "mpfl", "fedpaq", "fedlp", "fedavg", "fedprox", "fedadam",
    "fedavgm", "fedyogi", "fedlp_hetero", "centralised",
)  # fmt: skip
"""What prunes first, so that a sweep that is stopped has what matters most."""

Trial = tuple[dict[str, Any], float | None]
"""The tuned settings, and their score; None where the run is not finished."""


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run-root", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--grid", type=Path, default=Path("build/tuning.yaml"))
    parser.add_argument("--only", action="append", choices=ORDER, metavar="METHOD")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    options = parser.parse_args()
    methods = options.only or ORDER

    from flows.runs import run_folder

    options.grid.parent.mkdir(parents=True, exist_ok=True)
    run_folder.write_yaml(options.grid, grid(methods))
    if not options.only_print:
        limit = f"datasets.eurosat.source.limit={REDUCED['datasets.eurosat.source.limit']}"
        _fedx("data", "eurosat", "--set", limit)
        _fedx("sweep", str(options.grid), "--jobs", str(options.jobs), "--track", "nothing",
              "--run-root", str(options.run_root))  # fmt: skip
    found = {name: trials(name, options.grid, options.run_root) for name in methods}
    print(table(found))
    for name, tried in found.items():
        if own := chosen(name, tried):
            print(f"\n{name}.yaml")
            print("\n".join(f"  {setting}: {_said(value)}" for setting, value in own.items()))


def grid(methods: Sequence[str] = ORDER) -> dict[str, Any]:
    """Put the methods' trials into one grid, a block a method, for ``fedx sweep``."""
    alone = {name: preset.tuning_grid(name, "eurosat") for name in methods}
    base = next(iter(alone.values()))["base"]
    return {
        "name": "tune",
        "preset": "fedx_protocol",
        "base": {**base, **REDUCED},
        "grid": [{**SHORTER.get(name, {}), **one["grid"]} for name, one in alone.items()],
    }


def trials(method: str, path: Path, run_root: Path) -> list[Trial]:
    """Read how far a method's trials came, in the grid's order.

    Args:
        method: one of the grid's.
        path: of the grid.
        run_root: folder of the runs.
    """
    from flows.comparing import compare
    from flows.runs import run_folder
    from flows.runs.record import read
    from flows.sweeps import grid

    tuned = preset.of(method).tuning
    found: list[Trial] = []
    for cell in grid.load(path, Path("params.yaml")).cells:
        if cell.axes["method.name"] == method:
            folder = run_folder.RunFolder(run_root / cell.run)
            done = (folder.results / "summary.json").exists()
            score = compare.rows([read(folder)])[0]["validation"] if done else None
            found.append(({name: cell.axes[name] for name in tuned}, score))
    return found


def best(found: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest score, the first of equals; None where none is finished."""
    scored = [(settings, score) for settings, score in found if score is not None]
    return max(scored, key=lambda trial: trial[1]) if scored else None


def chosen(method: str, found: Sequence[Trial]) -> dict[str, Any]:
    """Return what a method's preset takes over; nothing before all of its trials are finished."""
    if any(score is None for _, score in found):
        return {}
    shared = preset.of(method).fedx_protocol
    winner = best([
        (settings, score)
        for settings, score in found
        if all(_is_own(n) or shared[n] == value for n, value in settings.items())
    ])  # fmt: skip
    return {n: value for n, value in winner[0].items() if _is_own(n)} if winner else {}


def table(found: Mapping[str, Sequence[Trial]]) -> str:
    """Say each method's trials with their scores in per cent, the best one in bold."""
    lines = ["| method | validation score in % of each trial |", "| --- | --- |"]
    for method, tried in found.items():
        winner = best(tried)
        names = " / ".join(f"`{name}`" for name in tried[0][0])
        said = []
        for settings, score in tried:
            values = " / ".join(_said(value) for value in settings.values())
            text = f"{values}: {'-' if score is None else f'{100 * score:.1f}'}"
            said.append(f"**{text}**" if winner and settings == winner[0] else text)
        lines.append(f"| `{method}` | {names}: {'; '.join(said)} |")
    return "\n".join(lines)


def _is_own(setting: str) -> bool:
    return setting.startswith("method.")


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fedx(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
