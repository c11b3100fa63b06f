"""Short trials of candidates: which are run, and what came of them.

A trial is the whole run made shorter, by the same factor for all candidates: what fits into the
budget in half of the rounds has half of the rounds in its trial too. Trials are runs of a sweep, in
a folder of their own, so they go on where they were stopped. They are scored on the tuning images;
their test scores are never read.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fedx_core.base import config, strict_json, strict_yaml
from fedx_core.base.config import ExperimentConfig, SelectionConfig
from fedx_core.base.errors import ConfigError, FedXError, ReferenceSetError
from fedx_core.clients.client import Place
from fedx_core.learning.evaluation import PRIMARY
from fedx_core.rounds import start
from fedx_core.rounds.forecast import forecast
from fedx_core.rounds.start import Data, Setting
from flows.advise import choice, costs
from flows.advise.candidates import Candidate
from flows.advise.choice import Tried
from flows.advise.costs import MIB, Budget, Course, Link
from flows.runs.record import read
from flows.runs.rows import ratio
from flows.runs.run_folder import RunFolder
from flows.sweeps.grid import Cell, Grid

SHORT, LEAST = 4, 5
"""A trial has one round for so many of the run's, and at least so many if the run has them."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for.

    Args:
        plain: the settings that candidates change.
        settings: the same, checked.
        budget: of the run.
        link: of each client; None where time plays no part.
        rounds: of a run that fits.
        trial_rounds: of such a run's trial.
        seeds: of each candidate's trials.
    """

    plain: Mapping[str, Any]
    settings: ExperimentConfig
    budget: Budget
    link: Link | None
    rounds: int
    trial_rounds: int
    seeds: tuple[int, ...]

    def shortened(self, rounds: int) -> int:
        """Return the rounds of the trial of a run."""
        return max(1, math.ceil(self.trial_rounds * rounds / self.rounds))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A candidate before its trials.

    Args:
        candidate: it.
        course: what its rounds are forecast to cost.
        rounds: that are forecast to fit into the budget; 0 where none does.
        cells: its trials, one a seed; none where nothing fits.
        left_out: why there can be no such run; empty where there can.
    """

    candidate: Candidate
    course: Course | None
    rounds: int
    cells: tuple[Cell, ...]
    left_out: str = ""

    @property
    def trial_rounds(self) -> int:
        """Rounds of each trial; 0 where there is none."""
        return self.cells[0].settings.federation.rounds if self.cells else 0


def asked(
    params: Path,
    changes: Mapping[str, Any],
    budget: Budget,
    link: Link | None,
    trial_rounds: int | None,
    seeds: int,
) -> Asked:
    """Read the settings, and settle how long runs and trials are.

    Raises:
        ConfigError: a setting can't be, or a budget of time has no link.
    """
    if budget.sent is None and link is None:
        raise ConfigError(
            f"a budget of time ({budget.said}) needs to know the link; say what a client has, as "
            "in --down 50 --up 10 (Mbit/s) and --latency 30 (ms)"
        )
    settings = config.load(params, changes)
    rounds = settings.federation.rounds
    usual = max(LEAST, math.ceil(rounds / SHORT))
    return Asked(
        plain=config.override(strict_yaml.read(params), changes),
        settings=settings,
        budget=budget,
        link=link,
        rounds=rounds,
        trial_rounds=min(trial_rounds or usual, rounds),
        seeds=tuple(range(settings.seed, settings.seed + seeds)),
    )


def opened(data_root: Path, settings: ExperimentConfig) -> Data:
    """Open the data, which must have a tuning part.

    Raises:
        DataError: there are none, or they were made with other settings.
        ReferenceSetError: all validation images are in the reference set.
    """
    folder = data_root / settings.dataset
    place = Place(store="", shards=str(folder / "shards"), memory="")
    data = start.load(Setting(run="", data=folder, place=place), settings)
    if not len(data.tuning):
        raise ReferenceSetError(
            f"data set {settings.dataset!r} has no tuning part, which trials are scored on: the "
            "reference set has taken all of its validation images; lower "
            f"datasets.{settings.dataset}.reference.per_class, or give it more validation images, "
            f"and prepare it again with `fedx data {settings.dataset}`"
        )
    return data


def plan(candidates: Sequence[Candidate], what: Asked, data: Data) -> list[Planned]:
    """Say what is tried, and what it is forecast to cost.

    Raises:
        ConfigError: no candidate can be run, or the budget holds not one round of any.
    """
    found = [_planned(candidate, what, data) for candidate in candidates]
    possible = [one for one in found if one.course is not None]
    if not possible:
        raise ConfigError(f"no candidate can be run: {found[0].left_out}")
    if not any(one.rounds for one in possible):
        raise _too_little(possible, what)
    return found


def grid(planned: Sequence[Planned], what: Asked) -> Grid:
    """Return all trials as a sweep."""
    cells = tuple(cell for one in planned for cell in one.cells)
    return Grid(name="advise", cells=cells, baseline={}, seed=int(what.plain.get("seed", 0)))


def tried(planned: Planned, what: Asked, root: Path, data: Data) -> Tried | None:
    """Read a candidate's trials.

    Returns:
        None where a trial has no last round, or where its run does not fit after all.
    """
    assert planned.course is not None
    metric = PRIMARY[data.description.label_kind]
    runs = []
    for cell in planned.cells:
        try:
            runs.append(read(RunFolder(root / cell.run)).reports)
        except FedXError:
            return None
    if not runs or any(reports[-1].round_index < planned.trial_rounds for reports in runs):
        return None
    courses = [costs.measured_course(reports, planned.course) for reports in runs]
    rounds = min(c.fitting(what.rounds, what.budget, what.link) for c in courses)
    if not rounds:
        return None
    scores = tuple(reports[-1].validation.get(metric, math.nan) for reports in runs)
    low, high = choice.interval(scores, metric, len(data.tuning))
    ratios = [times for reports in runs if (times := ratio(reports).total) is not None]
    whole = [course.rounds(rounds) for course in courses]
    return Tried(
        name=planned.candidate.name,
        rounds=rounds,
        trial_rounds=planned.trial_rounds,
        sent=fmean(sum(each.sent for each in one) for one in whole),
        seconds=fmean(sum(each.seconds(what.link) for each in one) for one in whole),
        ratio=fmean(ratios) if ratios else None,
        scores=scores,
        low=low,
        high=high,
    )


def _planned(candidate: Candidate, what: Asked, data: Data) -> Planned:
    try:
        whole = candidate.settings(what.plain, what.rounds, what.seeds[0])
        course = costs.forecast_course(forecast(_judged(whole, data), data))
        rounds = course.fitting(what.rounds, what.budget, what.link)
        cells = tuple(_cell(candidate, what, data, rounds, seed) for seed in what.seeds if rounds)
    except FedXError as error:
        return Planned(candidate=candidate, course=None, rounds=0, cells=(), left_out=str(error))
    return Planned(candidate=candidate, course=course, rounds=rounds, cells=cells)


def _cell(candidate: Candidate, what: Asked, data: Data, rounds: int, seed: int) -> Cell:
    short = candidate.settings(what.plain, what.shortened(rounds), seed)
    settings = _judged(short, data)
    # Named by all of its settings, so that other ones are another trial and the same one goes on.
    content = strict_json.dumps(config.as_plain(settings), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:6]
    run = f"{candidate.name}-r{settings.federation.rounds}-s{seed}-{digest}"
    return Cell(run=run, label=candidate.name, axes={}, settings=settings)


def _judged(settings: ExperimentConfig, data: Data) -> ExperimentConfig:
    metric = PRIMARY[data.description.label_kind]
    judged = SelectionConfig(metric=metric, patience=0, min_delta=0.0)
    return replace(settings, federation=replace(settings.federation, selection=judged))


def _too_little(possible: Sequence[Planned], what: Asked) -> ConfigError:
    """Say what the least budget is, and whose."""
    firsts = [(one.course.first, one.candidate.name) for one in possible if one.course]
    if what.budget.sent is not None:
        sent, name = min((first.sent, name) for first, name in firsts)
        least = f"{sent / MIB:.3f} MiB"
        hold = f"--budget {math.ceil(sent / 2**10)}KiB"
    else:
        spent, name = min((first.seconds(what.link), name) for first, name in firsts)
        least = f"{spent:.1f} s on this link, besides training"
        hold = f"--budget {math.ceil(2 * spent)}s"
    return ConfigError(
        f"the budget {what.budget.said} holds not one round of any candidate: the cheapest, "
        f"{name}, takes {least}; give {hold} or more"
    )
