"""Which candidate to take, and how sure that is: pure functions of what trials came to.

The interval is for 95 %, of the mean over seeds of the score on the tuning images:

    mean ± √( (t(0.975, n - 1) · s / √n)² + 1.96² · p (1 - p) / m )

with s the standard deviation over n seeds, which one seed can't show, and p (1 - p) / m the
variance that m images leave to a share p of them that are right. Only accuracy is such a share; for
other scores the second part is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fedx_core.learning.evaluation import LOWER_IS_BETTER
from flows.sweeps.paired import half_width

SHARE = "overall_accuracy"
Z_975 = 1.96


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What trials of one candidate came to, and what its run would be.

    Args:
        name: of the candidate.
        rounds: of its run, as many as fit into the budget and are asked for.
        trial_rounds: of each trial.
        sent: bytes of its run, all clients, both directions.
        seconds: of its run; without a link, compute alone.
        ratio: how many times fewer bytes than FedAvg's in float32 in the trials.
        scores: of the tuning images after each trial, one a seed.
        low: lower end of the interval; None where nothing can be said.
        high: upper end.
    """

    name: str
    rounds: int
    trial_rounds: int
    sent: float
    seconds: float
    ratio: float | None
    scores: tuple[float, ...]
    low: float | None
    high: float | None

    @property
    def score(self) -> float:
        """Mean over seeds."""
        return fmean(self.scores)


def interval(
    scores: Sequence[float], metric: str, images: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of a mean score, see above; nothing where neither part is known.

    Args:
        scores: one a seed.
        metric: that they are of.
        images: that each is of.
    """
    mean, over_seeds = fmean(scores), half_width(scores)
    of_images = 0.0
    if metric == SHARE:
        # One image more of each kind, or all right would be sure.
        share = (mean * images + 1) / (images + 2)
        of_images = Z_975 * math.sqrt(share * (1 - share) / images)
    elif over_seeds is None:
        return None, None
    half = math.hypot(over_seeds or 0.0, of_images)
    return mean - half, mean + half


def choose(tried: Sequence[Tried], metric: str) -> Tried:
    """Return the candidate with the best score, of equal ones that with fewest bytes.

    Args:
        tried: those that fit into the budget, at least one.
        metric: that scores are of.
    """
    return min(tried, key=lambda one: (-_goodness(one.score, metric), one.sent, one.name))


def not_told_apart(tried: Sequence[Tried], chosen: Tried, metric: str) -> list[Tried]:
    """Return cheaper candidates whose scores lie within the chosen one's interval, cheapest first.

    Args:
        tried: those that fit into the budget.
        chosen: of them.
        metric: that scores are of.
    """
    worst = chosen.high if metric in LOWER_IS_BETTER else chosen.low
    if worst is None:
        return []
    found = [
        one
        for one in tried
        if one.sent < chosen.sent and _goodness(one.score, metric) >= _goodness(worst, metric)
    ]
    return sorted(found, key=lambda one: one.sent)


def uncertainty(chosen: Tried, candidates: int, metric: str, images: int) -> list[str]:
    """Say what the expected score does not show.

    Args:
        chosen: the candidate.
        candidates: that were tried.
        metric: of the score.
        images: that it is of.
    """
    seeds = len(chosen.scores)
    parts = [f"the draw of {images} tuning images"] if metric == SHARE else []
    parts += [f"{seeds} seeds"] if seeds > 1 else []
    said = []
    if parts:
        said.append(f"The interval (95 %) is of {' and '.join(parts)}.")
    if seeds == 1:
        said.append("How much seeds differ was not measured; --seeds 3 does.")
    if chosen.trial_rounds < chosen.rounds:
        said.append(
            f"Trials had {chosen.trial_rounds} of {chosen.rounds} rounds: the whole run scores "
            "better as a rule, and candidates may come out in another order."
        )
    if candidates > 1:
        said.append(f"The best of {candidates} looks a little better than it is.")
    return said


def _goodness(score: float, metric: str) -> float:
    if math.isnan(score):  # it diverged
        return -math.inf
    return -score if metric in LOWER_IS_BETTER else score
