"""Runs of several settings with the same seeds: resumed where they stopped, compared seed by seed.

Used by ``fewer_bytes.py``, ``recovery.py``, ``small_models.py`` and ``pretraining.py``, whose rows
differ; it is no script of its own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fedx_core.base import config, strict_yaml
from fedx_core.base.errors import ConfigError
from fedx_core.clients.client import Place
from fedx_core.clients.plan import read_plan, set_up
from fedx_core.images import set_folder
from fedx_core.learning import evaluation
from fedx_core.record.journal import Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.messages import RoundReport
from flows.figures import style
from flows.sweeps import paired

MIB = 2**20
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """One way to run.

    Args:
        settings: what differs from those that all share.
        shares: the row whose first rounds this one shares, and how many; empty for none.
        label: in figures; its name where it has none.
        dense: the row with whose dense FedAvg its bytes are compared; empty for its own model's.
    """

    settings: Mapping[str, Any]
    shares: tuple[str, int] | tuple[()] = field(default=())
    label: str = ""
    dense: str = ""


@dataclass(frozen=True)
class Runs:
    """Rows to run, for some seeds.

    Args:
        shared: settings of all rows.
        rows: by name.
        against: rows that the others are compared with, seed by seed.
        options: see :func:`options`.
    """

    shared: Mapping[str, Any]
    rows: Mapping[str, Row]
    against: tuple[str, ...]
    options: argparse.Namespace

    def __post_init__(self) -> None:
        if self.options.part != "test" and self.options.test is None:
            raise SystemExit(f"--part {self.options.part} is of --test; say that, too")

    def settings(self, name: str) -> dict[str, Any]:
        """Return what a row sets; what was said by ``--set`` goes over all else."""
        return {**self.shared, **self.rows[name].settings, **dict(self.options.set)}

    def run(self) -> None:
        """Run what is missing of the rows that were asked for."""
        for seed in self.options.seeds:
            for name in self.options.runs if not self.options.only_print else ():
                self._run(name, seed)

    def _run(self, name: str, seed: int, until: int = 0) -> None:
        row, place = self.rows[name], self._place(name, seed)
        branch = None
        if row.shares:
            other, rounds = row.shares
            if len(self._history(other, seed)) < rounds:
                self._run(other, seed, rounds)
            branch = Branch(store=self._place(other, seed).store, round_index=rounds)
        started = time.time()
        resume = Journal(open_store(place.store)).run() is not None
        for report in federate(
            config.load(ROOT / "params.yaml", {**self.settings(name), "seed": seed}),
            Setting(run=f"{name}-{seed}", data=self.options.data, place=place),
            InProcess(1),
            resume=resume,
            branch=None if resume else branch,
        ):
            print(
                f"{name}-{seed} round {report.round_index}:"
                f" {_score(report):.4f}, {report.wire_bytes:,} bytes, after"
                f" {time.time() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            if report.round_index == until:
                return

    def table(self) -> str:
        """Return a Markdown table of all rows that have run: bytes, scores, paired differences."""
        against = "".join(f" minus {name} (95 %) |" for name in self.against)
        lines = [
            "| run | seeds | down MiB | up MiB | all MiB | times fewer bytes | test % |" + against,
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |" + " --- |" * len(self.against),
        ]
        scores = {name: self.scores(name) for name in self.rows}
        for name in self.rows:
            if not scores[name]:
                continue
            down, up, dense = self._sent(name)
            cells = [
                *(name, str(len(scores[name])), f"{down / MIB:.3f}", f"{up / MIB:.3f}"),
                *(f"{(down + up) / MIB:.3f}", f"{dense / (down + up):.0f}" if dense else "-"),
                f"{100 * statistics.mean(scores[name].values()):.2f}",
                *(difference(scores[name], scores[other]) for other in self.against),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    @style.styled
    def figure(self) -> Figure:
        """Draw the mean score after each round against all MiB so far, on a logarithmic axis."""
        figure = Figure(figsize=(style.WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        colours = style.run_colours(self.rows)
        for name in self.rows:
            if not (finished := list(self._finished(name).values())):
                continue
            sent = np.cumsum([[r.wire_bytes / MIB for r in found] for found in finished], axis=1)
            scores = [[_score(r) for r in found] for found in finished]
            mib, score = sent.mean(axis=0), 100 * np.mean(scores, axis=0)
            axes.plot(mib, score, color=colours[name], label=self.rows[name].label or name)
            axes.plot(mib[-1], score[-1], "o", color=colours[name])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda mib, _: f"{mib:g}"))
        axes.set_xlabel("MiB on the wire so far, both directions, all clients (logarithmic)")
        axes.set_ylabel("overall accuracy in %, test images")
        style.grid(axes)
        figure.legend(fontsize="small", loc="outside lower center", ncols=3)
        return figure

    def scores(self, name: str) -> dict[int, float]:
        """Score the final models of finished runs, by seed."""
        found = {}
        for seed, reports in self._finished(name).items():
            found[seed] = _score(reports[-1])
            if self.options.test is not None:
                store = open_store(self._place(name, seed).store)
                found[seed] = _scored(store, self.options.test, self.options.part)
        return found

    def mib(self, name: str) -> float:
        """Return all that finished runs sent, both directions, in MiB; the mean over seeds."""
        down, up, _ = self._sent(name)
        return (down + up) / MIB

    def _sent(self, name: str) -> tuple[float, float, float]:
        """Return the bytes down, masks counted, and up, and dense FedAvg's; means over seeds."""
        found = [
            (
                sum(report.downlink_bytes + report.mask_bytes for report in reports),
                sum(report.uplink_bytes for report in reports),
            )
            for reports in self._finished(name).values()
        ]
        down, up = (statistics.mean(part) for part in zip(*found, strict=True))
        return down, up, self._dense(self.rows[name].dense or name)

    def _dense(self, name: str) -> float:
        """Return the bytes of a row's model in dense FedAvg, both ways; 0 where none has run."""
        finished = self._finished(name).values()
        found = [2 * sum(report.dense_bytes for report in reports) for reports in finished]
        return statistics.mean(found) if found else 0.0

    def _finished(self, name: str) -> dict[int, list[RoundReport]]:
        found = {seed: self._history(name, seed) for seed in self.options.seeds}
        rounds = self.settings(name)["federation.rounds"]
        return {seed: reports for seed, reports in found.items() if len(reports) == rounds}

    def _history(self, name: str, seed: int) -> list[RoundReport]:
        return history(open_store(self._place(name, seed).store))

    def _place(self, name: str, seed: int) -> Place:
        folder = self.options.run_root / f"{name}-{seed}"
        return Place(
            store=str(folder / "store"),
            shards=str(self.options.data / "shards"),
            memory=str(folder / "clients"),
        )


def options(description: str, run_root: str, rows: Mapping[str, Row]) -> argparse.ArgumentParser:
    """Return the options that such a benchmark has."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--run-root", type=Path, default=Path(run_root))
    parser.add_argument("--data", type=Path, default=Path("data/eurosat"))
    parser.add_argument("--test", type=Path, default=None, help="a data set that scores")
    parser.add_argument("--part", default="test", choices=["validation", "test"], help="of --test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", nargs="+", default=list(rows), choices=list(rows))
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="PATH=VALUE",
        help="a setting of all rows; they then want a --run-root of their own",
    )  # fmt: skip
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path, help="draw the scores into this SVG")
    return parser


def show(runs: Runs) -> None:
    """Run what is missing, print the table, and draw the figure if it was asked for."""
    runs.run()
    print(runs.table())
    if runs.options.figure is not None:
        runs.options.figure.write_bytes(style.as_svg(runs.figure()))


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """Say how far apart paired seeds are in points, with Student's interval from two on."""
    differences = [100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs]
    if ours is theirs or not differences:
        return "-"
    mean, half = statistics.mean(differences), paired.half_width(differences)
    if half is None:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def _setting(text: str) -> tuple[str, Any]:
    try:
        return strict_yaml.setting(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _score(report: RoundReport) -> float:
    return next(report.metrics[m] for m in evaluation.PRIMARY.values() if m in report.metrics)


def _scored(store: Any, test: Path, name: str) -> float:
    plan = read_plan(store.get(Journal(store).commits()[-1].plan))
    model = set_up(plan).model
    model.load_state_dict(final_model(store))
    part = set_folder.read_part(test / "prepared", name)
    logits = evaluation.predict(
        model, part, pixels=plan.pixels, batch_size=100, device=torch.device("cpu")
    )
    return evaluation.metrics(logits, part.labels, "single")["overall_accuracy"]
