"""Which round is best, and when a run has stopped gaining: decided from its reports alone.

Rounds are judged on the tuning set, the part of the validation split that is not the reference
set. The test split is never asked, so that what is reported of it stays honest. A pruning event
begins anew: models from before it are not what the method delivers, so they are not compared with,
and a run does not stop while a pruning event is still to come. How many rounds are planned makes no
difference, so a run that is resumed, or that is given more rounds, decides the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.config import SelectionConfig
from fedx_core.base.errors import ConfigError
from fedx_core.images.label_values import LabelKind
from fedx_core.learning import evaluation
from fedx_core.wire.messages import RoundReport

_WITHOUT_LABELS = ("loss",)
"""What can be computed of images that bear no label."""


@dataclass(frozen=True)
class Standing:
    """What is known after a round.

    Args:
        best_round: best so far.
        stopped: why the run ends here; empty where it goes on.
    """

    best_round: int
    stopped: str


def standing(
    reports: Sequence[RoundReport], selection: SelectionConfig, *, more_to_come: bool
) -> Standing:
    """Compare the rounds since the last pruning event.

    Args:
        reports: of all rounds so far; the last one has been scored.
        selection: the metric, and how long to wait for a gain.
        more_to_come: whether a later round is to do more, such as to prune.
    """
    since = max((i for i, report in enumerate(reports) if report.pruned), default=0)
    best, highest = reports[since], _goodness(reports[since], selection)
    for report in reports[since + 1 :]:
        if _goodness(report, selection) > highest + selection.min_delta:
            best, highest = report, _goodness(report, selection)
    waited = reports[-1].round_index - best.round_index
    stops = 0 < selection.patience <= waited and not more_to_come
    return Standing(
        best.round_index,
        f"no gain in validation {selection.metric} for {waited} rounds after round "
        f"{best.round_index}"
        if stops
        else "",
    )


def check(
    selection: SelectionConfig,
    label_kind: LabelKind,
    tuning: NDArray[np.integer],
    *,
    personal: bool,
) -> None:
    """Find out before a run whether its rounds can be judged.

    Args:
        selection: what is asked for.
        label_kind: of the data; it decides which metrics there are.
        tuning: labels of the tuning set, int64 (n,) or 0/1 (n, classes).
        personal: whether the method has a model a client and none of its own.

    Raises:
        ConfigError: they can't.
    """
    known = evaluation.METRICS[label_kind]
    if selection.metric not in known:
        raise ConfigError(
            f"federation.selection.metric: no metric {selection.metric!r} for {label_kind}-label "
            f"data; choose one of {', '.join(known)}"
        )
    if personal:
        raise ConfigError(
            "federation.selection can't judge a method without a global model: its clients score "
            "their own models on test images, and rounds chosen by those would make the reported "
            "numbers too good; set it to null"
        )
    if not len(tuning):
        raise ConfigError(
            "federation.selection needs a tuning set, and the reference set has taken all of the "
            "validation split; lower the data set's reference.per_class, or set it to null"
        )
    if label_kind == "multi" and selection.metric not in _WITHOUT_LABELS and not tuning.any():
        raise ConfigError(
            f"federation.selection.metric: no image of the tuning set bears a label, so "
            f"{selection.metric} can't be computed; choose {', '.join(_WITHOUT_LABELS)}, lower the "
            "data set's reference.per_class, or set federation.selection to null"
        )


def _goodness(report: RoundReport, selection: SelectionConfig) -> float:
    """Return the metric, turned so that higher is better; a model without a score is worst."""
    value = report.validation.get(selection.metric, math.nan)
    if math.isnan(value):  # it diverged
        return -math.inf
    return -value if selection.metric in evaluation.LOWER_IS_BETTER else value
