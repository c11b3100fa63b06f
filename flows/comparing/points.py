"""Runs as points for figures: what was removed, what was left, what it cost, what it scored.

Runs that differ in their seed alone are one point: the mean over seeds, with Student's 95 %
interval (:mod:`flows.sweeps.paired`). Where all points of a data set have some seeds in common,
only these count, so that points are means over the same draws.

    rate    share that the method was told to remove (``pruning_rate`` of units, ``sparsity`` of
            weights), or else the share of prunable parameters that it removed; None where each
            client has a model of its own
    alive   parameters of the final model that are not zero, buffers left out
    mib     MiB on the wire, both directions and all clients
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedx_core.base import plugins, strict_json
from fedx_core.learning.evaluation import LOWER_IS_BETTER
from flows.comparing import compare
from flows.runs.record import Record
from flows.runs.rows import ratio
from flows.runs.run_folder import RunFolder
from flows.sweeps.paired import half_width

RATES = ("method.pruning_rate", "method.sparsity")
STRENGTHS = ("method.prune_share", "method.penalty", "method.send_share", "method.levels")
"""What says how much goes in methods that are told no rate."""
UNPRUNED = "fedavg"
"""The method that is every pruning method's point at rate 0."""

_SAID = ("dataset", "model.name", "method.name", "method.relevance.name")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting over its seeds; numbers are means.

    Args:
        dataset: its key in the settings.
        model: name in the catalogue.
        method: a file of ``fedx_core/methods``.
        series: what the setting is without its rate and its model, for people.
        metric: that the score is of.
        runs: names, in order of seeds.
        rate: see above.
        alive: see above; None where a model is missing.
        mib: see above; 0 for bounds.
        score: of the test images after the last round.
        personal: whether clients score models of their own, each on its own test images.
        low: lower end of the interval; None with one seed.
        high: upper end.
        ratio: how many times fewer bytes than FedAvg's in the same rounds; None where not known.
    """

    dataset: str
    model: str
    method: str
    series: str
    metric: str
    runs: tuple[str, ...]
    rate: float | None
    alive: float | None
    mib: float
    score: float
    personal: bool = False
    low: float | None = None
    high: float | None = None
    ratio: float | None = None


def points(records: Sequence[Record], metric: str | None = None) -> list[Point]:
    """Put runs together that differ in nothing but their seed.

    Args:
        records: finished runs; those without the metric are left out.
        metric: of the test set; None takes the paper's for each run's kind of labels.

    Returns:
        In the order in which the settings first appear, of each series the smallest rate first.
    """
    metrics = {r.name: metric or compare.metric_of(r.reports) for r in records}
    there = [r for r in records if metrics[r.name] in r.reports[-1].metrics]
    flat = {record.name: compare.in_effect(record.settings) for record in there}
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in there:
        groups[_key(flat[record.name], "seed")].append(record)
    names = _series([flat[group[0].name] for group in groups.values()])
    seeds = _common_seeds(groups.values())
    found = [
        _point(group, flat[group[0].name], names, seeds, metrics[group[0].name])
        for group in groups.values()
    ]
    order = {point.series: number for number, point in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda p: (order[p.series], p.rate is None, p.rate or 0.0))


def front(found: Iterable[Point]) -> list[Point]:
    """Return the points that no other one beats in both score and MiB, cheapest first.

    Points that send nothing are bounds and no rivals, and scores of clients' own models are of
    other images; both are left out.
    """
    best: list[Point] = []
    rivals = [point for point in found if point.mib and not point.personal]
    for point in sorted(rivals, key=lambda p: (p.mib, -_goodness(p))):
        if not best or _goodness(point) > _goodness(best[-1]):
            best.append(point)
    return best


def _goodness(point: Point) -> float:
    return -point.score if point.metric in LOWER_IS_BETTER else point.score


def rows(found: Iterable[Point]) -> list[dict[str, Any]]:
    """Turn points into plain rows, all with the same keys."""
    return [
        {
            **{name: value for name, value in vars(point).items() if name != "runs"},
            "n": len(point.runs),
            "runs": " ".join(point.runs),
        }
        for point in found
    ]


def alive_parameters(folder: RunFolder) -> int | None:
    """Count the parameters of a run's final model that are not zero; None where it has none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder.model, framework="pt") as file:
            names = [name for name in file.keys() if not name.endswith(_BUFFERS)]  # noqa: SIM118  no mapping
            return sum(int(file.get_tensor(name).count_nonzero()) for name in names)
    except (OSError, SafetensorError):
        return None


def _point(
    group: Sequence[Record],
    flat: Mapping[str, Any],
    names: Mapping[str, str],
    seeds: Mapping[str, set[int]],
    metric: str,
) -> Point:
    settings = group[0].settings
    common = seeds[settings.dataset]
    taken = [r for r in group if not common or r.settings.seed in common]
    taken.sort(key=lambda record: record.settings.seed)
    scores = [record.reports[-1].metrics[metric] for record in taken]
    alive = [count for r in taken if (count := alive_parameters(r.folder)) is not None]
    score, half = fmean(scores), half_width(scores)
    ratios = [times for r in taken if (times := ratio(r.reports).total) is not None]
    return Point(
        dataset=settings.dataset,
        model=settings.model.name,
        method=settings.method.name,
        metric=metric,
        series=names[_key(flat, *_apart(flat))],
        runs=tuple(record.name for record in taken),
        rate=_rate(flat, taken),
        alive=fmean(alive) if len(alive) == len(taken) else None,
        mib=fmean(compare.mib_sent(record.reports) for record in taken),
        score=score,
        personal=plugins.load("methods", settings.method.name).personal,
        low=None if half is None else score - half,
        high=None if half is None else score + half,
        ratio=fmean(ratios) if len(ratios) == len(taken) else None,
    )


def _rate(flat: Mapping[str, Any], group: Sequence[Record]) -> float | None:
    if plugins.load("methods", flat["method.name"]).personal:
        return None
    told = next((flat[path] for path in RATES if path in flat), None)
    return fmean(r.reports[-1].sparsity for r in group) if told is None else float(told)


def _common_seeds(groups: Iterable[Sequence[Record]]) -> dict[str, set[int]]:
    """Return, by data set, the seeds that all its groups have."""
    found: dict[str, set[int]] = {}
    for group in groups:
        here = {record.settings.seed for record in group}
        name = group[0].settings.dataset
        found[name] = found[name] & here if name in found else here
    return found


def _apart(flat: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the settings in which the points of one series may differ."""
    rates = RATES if any(path in flat for path in RATES) else STRENGTHS
    return ("seed", "model.name", "dataset", "datasets", *rates)


def _series(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name each series by its method and criterion, and by what else tells it from its like.

    Numbers that go along with the rate, so that no rate comes twice, make no series of their own.
    """
    keys = {_key(flat, *_apart(flat)): flat for flat in settings}
    rates: dict[str, dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    for flat in settings:
        own = rates[_words(flat)][_key(flat, *_apart(flat))]
        own.update(flat[path] for path in RATES if path in flat)
    kin: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for flat in keys.values():
        kin[_words(flat)].append(_without(flat, *_SAID, *_apart(flat)))
    names = {}
    for key, flat in keys.items():
        like = kin[_words(flat)]
        paths = dict.fromkeys(path for one in like for path in one)
        differing = [p for p in paths if len({repr(one.get(p)) for one in like}) > 1]
        if _no_rate_twice(rates[_words(flat)].values()):
            differing = [p for p in differing if not all(_is_amount(one.get(p)) for one in like)]
        criterion = [flat["method.relevance.name"]] if "method.relevance.name" in flat else []
        inside = ", ".join([*criterion, *(_said(path, flat.get(path)) for path in differing)])
        method = str(flat["method.name"])
        names[key] = f"{method} ({inside})" if inside else method
    return names


def _no_rate_twice(rates: Iterable[set[Any]]) -> bool:
    found = list(rates)
    return all(found) and len(set().union(*found)) == sum(map(len, found))


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(flat: Mapping[str, Any]) -> str:
    return f"{flat['method.name']} {flat.get('method.relevance.name', '')}"


def _said(path: str, value: Any) -> str:
    leaf = path.rpartition(".")[2]
    return str(value) if leaf in ("name", "scope") else f"{leaf} {value}"


def _key(flat: Mapping[str, Any], *without: str) -> str:
    return strict_json.dumps(_without(flat, *without), sort_keys=True, default=str)


def _without(flat: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Leave out settings by path, and whole blocks."""
    blocks = tuple(f"{name}." for name in names)
    return {p: v for p, v in flat.items() if p not in names and not p.startswith(blocks)}
