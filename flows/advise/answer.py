"""The advice, in words and in files: settings for ``fedx run``, a table, a figure, and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedx_core.base import config, strict_json, strict_yaml
from fedx_core.base.config import ExperimentConfig
from fedx_core.learning.evaluation import LOWER_IS_BETTER
from flows.advise import choice
from flows.advise.choice import Tried
from flows.advise.costs import MIB
from flows.advise.trials import Asked, Planned
from flows.base.csv_text import csv_text
from flows.figures.advice import Mark
from flows.runs.run_folder import write

PARAMS, TABLE, JSON, FIGURE = "params.yaml", "candidates.csv", "advice.json", "accuracy-by-mib"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to run, and what else was tried.

    Args:
        what: was asked for.
        metric: of the scores.
        images: tuning images that they are of.
        planned: all candidates.
        tried: those that fit and were tried.
        failed: why candidates have no score, by name.
        chosen: of those tried.
        settings: of the run.
    """

    what: Asked
    metric: str
    images: int
    planned: tuple[Planned, ...]
    tried: tuple[Tried, ...]
    failed: Mapping[str, str]
    chosen: Tried
    settings: ExperimentConfig


def advise(
    planned: Sequence[Planned],
    found: Sequence[Tried],
    failed: Mapping[str, str],
    what: Asked,
    metric: str,
    images: int,
) -> Advice:
    """Choose, and make the settings of the run; where it is judged stays as it was."""
    chosen = choice.choose(found, metric)
    (candidate,) = (p.candidate for p in planned if p.candidate.name == chosen.name)
    return Advice(
        what=what,
        metric=metric,
        images=images,
        planned=tuple(planned),
        tried=tuple(found),
        failed=failed,
        chosen=chosen,
        settings=candidate.settings(what.plain, chosen.rounds, what.seeds[0]),
    )


def rows(advice: Advice) -> list[dict[str, Any]]:
    """Return a row a candidate, the best first, then those without a score."""
    scored = {one.name: one for one in advice.tried}
    found = [_row(one, scored.get(one.candidate.name), advice) for one in advice.planned]
    sign = 1 if advice.metric in LOWER_IS_BETTER else -1
    return sorted(found, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0)))


def _row(planned: Planned, tried: Tried | None, advice: Advice) -> dict[str, Any]:
    rounds = tried.rounds if tried else 0
    return {
        "candidate": planned.candidate.name,
        "score": tried.score if tried else None,
        "low": tried.low if tried else None,
        "high": tried.high if tried else None,
        "mib": tried.sent / MIB if tried else None,
        "seconds": tried.seconds if tried else None,
        "ratio": tried.ratio if tried else None,
        "rounds": rounds or None,
        "trial_rounds": planned.trial_rounds or None,
        "seeds": len(tried.scores) if tried else 0,
        "chosen": tried is advice.chosen,
        "remark": _remark(planned, tried, advice),
    }


def _remark(planned: Planned, tried: Tried | None, advice: Advice) -> str:
    if planned.left_out:
        return planned.left_out
    if planned.candidate.name in advice.failed:
        return advice.failed[planned.candidate.name]
    if tried is None:
        return "left out: not one round fits"
    whole = advice.what.rounds
    return f"cut to {tried.rounds} of {whole} rounds to fit" if tried.rounds < whole else ""


def sentences(advice: Advice) -> list[str]:
    """Say what to run, what to expect of it, and how sure that is."""
    chosen, settings = advice.chosen, advice.settings
    training = settings.training
    cheaper = choice.not_told_apart(advice.tried, chosen, advice.metric)
    between = (
        f" ({_score(chosen.low, advice)} to {_score(chosen.high, advice)})"
        if chosen.low is not None and chosen.high is not None
        else ""
    )
    seconds = f", {chosen.seconds:,.0f} s" if advice.what.link else ""
    return [
        f"Take {chosen.name}: method {settings.method.name}, codec {_codec(settings)}, support "
        f"{_plugin(settings.support)}, {training.optimiser} at {training.learning_rate:g} "
        f"({training.schedule.name}), {settings.federation.rounds} rounds.",
        f"It sends about {chosen.sent / MIB:.3g} MiB{seconds}; the budget is "
        f"{advice.what.budget.said}.",
        f"Expected {advice.metric}: {_score(chosen.score, advice)}{between} on {advice.images} "
        f"tuning images, after {chosen.trial_rounds} rounds.",
        *choice.uncertainty(chosen, len(advice.tried), advice.metric, advice.images),
        *(
            f"Not told apart from it, with {chosen.sent / one.sent:.1f} times fewer bytes: "
            f"{one.name}, {_score(one.score, advice)}."
            for one in cheaper[:1]
        ),
    ]


def as_plain(advice: Advice) -> dict[str, Any]:
    """Return everything for programs."""
    return {
        "chosen": advice.chosen.name,
        "metric": advice.metric,
        "tuning_images": advice.images,
        "budget": advice.what.budget.said,
        "rounds": advice.chosen.rounds,
        "said": sentences(advice),
        "not_told_apart": [
            one.name for one in choice.not_told_apart(advice.tried, advice.chosen, advice.metric)
        ],
        "candidates": rows(advice),
        "settings": config.as_plain(advice.settings),
    }


def save(advice: Advice, folder: Path) -> list[Path]:
    """Write all files of the advice; the settings come first.

    Raises:
        StoreError: the folder can't be written.
    """
    from flows.figures import files
    from flows.figures.advice import candidates

    head = "".join(f"# {line}\n" for line in ("Written by fedx advise.", *sentences(advice)))
    settings = head + "\n" + strict_yaml.dumps(config.as_plain(advice.settings))
    table = rows(advice)
    names = list(table[0])
    write(folder / PARAMS, settings.encode())
    write(folder / TABLE, csv_text([names, *([r[name] for name in names] for r in table)]).encode())
    write(folder / JSON, strict_json.dumps(as_plain(advice), indent=1).encode() + b"\n")
    budget = advice.what.budget
    drawn = candidates(
        _marks(advice),
        advice.metric,
        None if budget.sent is None else budget.sent / MIB,
        f"budget {budget.said}; trials of {len(advice.what.seeds)} seed(s)",
    )
    return [folder / PARAMS, folder / TABLE, folder / JSON] + [
        folder / name for name in files.save(folder, FIGURE, drawn)
    ]


def _marks(advice: Advice) -> list[Mark]:
    marks = [
        Mark(
            name=one.name,
            mib=one.sent / MIB,
            score=one.score,
            low=one.low,
            high=one.high,
            cut=one.rounds < advice.what.rounds,
        )
        for one in advice.tried
        if one.sent
    ]
    return [replace(mark, chosen=mark.name == advice.chosen.name) for mark in marks]


def _score(value: float, advice: Advice) -> str:
    return f"{value:.3f}" if advice.metric in LOWER_IS_BETTER else f"{100 * value:.1f} %"


def _codec(settings: ExperimentConfig) -> str:
    down, up = _plugin(settings.codec.down), _plugin(settings.codec.up)
    return down if down == up else f"{down} down and {up} up"


def _plugin(block: config.Plugin) -> str:
    inside = ", ".join(f"{name} {value}" for name, value in block.params.items())
    return f"{block.name} ({inside})" if inside else block.name
