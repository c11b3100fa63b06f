"""``fedx advise``: which method, codec and rates to take within a budget, by short trials."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedx_core.base import strict_json
from flows.base.exits import FAILED
from flows.commands.options import DataRoot, JsonObject, Params, Settings, setting
from flows.commands.sweep import carried_out
from flows.settings import completion

if TYPE_CHECKING:
    from fedx_core.rounds.start import Data
    from flows.advise.answer import Advice
    from flows.advise.costs import Link
    from flows.advise.trials import Asked, Planned

TRIALS = "trials"


def advise(
    budget: Annotated[
        str,
        typer.Option(
            metavar="AMOUNT",
            help="What the run may cost: bytes of all clients in both directions (50MiB, 800KiB, "
            "2GB), or time (90s, 30min, 2h), for which the link must be known.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A key of datasets in params.yaml; the one named there if not given.",
            autocompletion=completion.offering(completion.data_sets),
            show_default=False,
        ),
    ] = None,
    down: Annotated[
        float | None, typer.Option(min=0.001, help="Mbit/s from the server to each client.")
    ] = None,
    up: Annotated[
        float | None, typer.Option(min=0.001, help="Mbit/s from each client to the server.")
    ] = None,
    latency: Annotated[float, typer.Option(min=0, help="ms from one end to the other.")] = 0.0,
    trial_rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="a quarter of the run's, at least 5",
            help="Rounds of the trial of a run that fits whole; with as many as the run has, "
            "nothing is extrapolated.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of each candidate; 3 show how far seeds differ.")
    ] = 1,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Try those of this file instead of those shipped."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Try this entry of the candidates. May be repeated."),
    ] = None,
    settings: Settings = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Trials, and the files of the answer.")
    ] = Path("advise"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials and what they cost; run nothing.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Trials at once, each a process.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Clients at once in each trial.")] = 1,
    params: Params = None,
    data_root: DataRoot = None,
    as_json: JsonObject = False,
) -> None:
    """Find what to run within a budget of bytes or time, by short trials.

    Each candidate runs for some rounds and is scored on the tuning images, never on test images. A
    candidate whose whole run does not fit is cut to the rounds that do, or left out, and the table
    says so. The answer is advise/params.yaml, with a figure and a table beside it. Trials that were
    stopped go on when the command is given again; another budget makes use of those that are there.

        fedx advise --budget 20MiB --dry-run
        fedx advise --budget 20MiB --jobs 4
        fedx advise eurosat --budget 2h --down 50 --up 10 --latency 30 --seeds 3
        fedx advise --budget 5MiB --only fedavg --only fedavg-2bits --trial-rounds 3
        fedx run --params advise/params.yaml
    """
    from flows.advise import candidates as files
    from flows.advise import costs, trials
    from flows.sweeps import sweep as sweeping

    changes = dict(setting(text) for text in settings or [])
    what = trials.asked(
        Path(params or "params.yaml"),
        {**changes, **({"dataset": dataset} if dataset else {})},
        costs.budget_of(budget),
        _link(down, up, latency),
        trial_rounds,
        seeds,
    )
    found = files.read(candidates or files.SHIPPED, only or ())
    root = Path(data_root or "data")
    data = trials.opened(root, what.settings)
    planned = trials.plan(found, what, data)
    if dry_run:
        _say_plan(planned, what, as_json=as_json)
        return
    places = sweeping.Places(run_root=out / TRIALS, data_root=root)
    jobs_found = sweeping.jobs(trials.grid(planned, what), places)
    launch = sweeping.Processes(sweep="advise", places=places, workers=workers, track="nothing")
    ends, _ = carried_out(jobs_found, launch, jobs)
    failed = {end.run for end in ends if end.ending == "failed"}
    advice = _read(planned, what, places.run_root, data, failed)
    _say(advice, out, as_json=as_json)
    if failed:
        raise typer.Exit(FAILED)


def _read(
    planned: Sequence["Planned"], what: "Asked", root: Path, data: "Data", failed: set[str]
) -> "Advice":
    """Read the trials, and choose."""
    from fedx_core.base.errors import RunError
    from fedx_core.learning.evaluation import PRIMARY
    from flows.advise import answer, trials

    lost = {
        p.candidate.name: "a trial failed" for p in planned if {c.run for c in p.cells} & failed
    }
    found = []
    for each in planned:
        if not each.cells or each.candidate.name in lost:
            continue
        one = trials.tried(each, what, root, data)
        if one is not None and math.isnan(one.score):
            lost[one.name] = "diverged"
        elif one is not None:
            found.append(one)
    if not found:
        raise RunError(
            "no trial came to its end with a score; mend what the trials say, or give a larger "
            "--budget, and start again"
        )
    metric = PRIMARY[data.description.label_kind]
    return answer.advise(planned, found, lost, what, metric, len(data.tuning))


def _link(down: float | None, up: float | None, latency: float) -> "Link | None":
    from flows.advise.costs import Link

    if down is None and up is None:
        return None
    if down is None or up is None:
        raise typer.BadParameter("a link has two directions; give both --down and --up, in Mbit/s")
    return Link(down=down, up=up, latency=latency)


def _say_plan(planned: Sequence["Planned"], what: "Asked", *, as_json: bool) -> None:
    from flows.advise.costs import MIB
    from flows.base.tables import Column

    rows = []
    for one in planned:
        trial = one.course.rounds(one.trial_rounds) if one.course and one.cells else []
        run = one.course.rounds(one.rounds) if one.course and one.rounds else []
        rows.append(
            {
                "candidate": one.candidate.name,
                "rounds": one.rounds or None,
                "mib": sum(each.sent for each in run) / MIB if run else None,
                "transfer_seconds": sum(r.seconds(what.link) for r in run)
                if run and what.link
                else None,
                "trials": len(one.cells),
                "trial_rounds": one.trial_rounds or None,
                "trial_mib": len(one.cells) * sum(r.sent for r in trial) / MIB if trial else None,
                "remark": one.left_out
                or ("" if one.rounds == what.rounds else _cut(one.rounds, what.rounds)),
            }
        )
    trials_, rounds = (
        sum(len(one.cells) for one in planned),
        sum(len(one.cells) * one.trial_rounds for one in planned),
    )
    if as_json:
        print(strict_json.dumps({"trials": trials_, "trial_rounds": rounds, "candidates": rows}))
        return
    link = [Column("transfer_seconds", "s on the link", "{:,.1f}".format)] if what.link else []
    _table(
        rows,
        [
            Column("candidate", "candidate"),
            Column("rounds", "rounds", "{:d}".format),
            Column("mib", "MiB about", "{:.3f}".format),
            *link,
            Column("trials", "trials", "{:d}".format),
            Column("trial_rounds", "rounds each", "{:d}".format),
            Column("remark", "remark"),
        ],
    )
    print(
        f"{trials_} trials of {rounds} rounds in all; nothing was run. Pruning and training time "
        "are not in these numbers: trials measure them."
    )


def _cut(rounds: int, whole: int) -> str:
    return f"cut to {rounds} of {whole} rounds to fit" if rounds else "left out: not one round fits"


def _say(advice: "Advice", folder: Path, *, as_json: bool) -> None:
    from fedx_core.learning.evaluation import LOWER_IS_BETTER
    from flows.advise import answer
    from flows.base.tables import Column

    written = answer.save(advice, folder)
    if as_json:
        files = [str(path) for path in written]
        print(strict_json.dumps({**answer.as_plain(advice), "files": files}))
        return
    share = advice.metric not in LOWER_IS_BETTER

    def score(value: float) -> str:
        return f"{100 * value:.1f} %" if share else f"{value:.3f}"

    better: Literal["more", "less"] = "more" if share else "less"
    link = [Column("seconds", "s", "{:,.0f}".format)] if advice.what.link else []
    _table(
        answer.rows(advice),
        [
            Column("candidate", "candidate"),
            Column("score", advice.metric, score, better),
            Column("low", "95 % from", score),
            Column("high", "to", score),
            Column("mib", "MiB", "{:.3f}".format),
            *link,
            Column("ratio", "ratio", "{:,.1f}".format),
            Column("rounds", "rounds", "{:d}".format),
            Column("trial_rounds", "tried", "{:d}".format),
            Column("remark", "remark"),
        ],
    )
    print()
    for line in answer.sentences(advice):
        print(line)
    print(f"\nfedx run --params {written[0]}")


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[Any]) -> None:
    import shutil

    from rich.console import Console

    from flows.base import tables

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    console = Console(highlight=False, width=width)
    for part in tables.fitting(columns, rows, console.width):
        console.print(tables.drawn(part, rows))
