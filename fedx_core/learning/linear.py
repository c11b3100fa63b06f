"""A linear probe: how well labels follow from features by planes alone, the encoder being frozen.

Source: Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, ICLR
2017 workshop, https://arxiv.org/abs/1610.01644. Logistic regression is scikit-learn's (L-BFGS).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedx_core.images.label_values import LabelKind
from fedx_core.learning import evaluation

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0)
"""Choices of the weight of the squared norm beside the mean loss."""
ITERATIONS = 200
"""Of L-BFGS at most; a fit that has not converged by then is taken as it is."""
ABSENT = -20.0
"""Logit of a class that no training image bears."""

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """A linear classifier of features.

    Args:
        weights: float64 (classes, width), for standardised features.
        bias: float64 (classes,).
        mean: of the training features, float64 (width,).
        std: likewise, all positive.
        penalty: of :data:`PENALTIES` that it was fitted with.
    """

    weights: Features
    bias: Features
    mean: Features
    std: Features
    penalty: float

    def logits(self, features: Tensor) -> Tensor:
        """Return logits, float32 (n, classes)."""
        given = (features.double().numpy() - self.mean) / self.std
        return torch.from_numpy(given @ self.weights.T + self.bias).float()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weights and bias, float32, of the same classifier for features as they are."""
        weights = self.weights / self.std
        return (
            torch.from_numpy(weights).float(),
            torch.from_numpy(self.bias - weights @ self.mean).float(),
        )


def chosen(
    features: Tensor,
    labels: NDArray[np.integer],
    tuning: tuple[Tensor, NDArray[np.integer]],
    classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> Linear:
    """Fit a probe with each penalty, and return the one that scores best on the tuning part.

    Features are standardised by those that are fitted. Of equal scores the larger penalty wins.

    Args:
        features: float32 (n, width).
        labels: int64 (n,), or 0/1 (n, classes).
        tuning: features and labels that choose the penalty; the last one is taken where they can't
            be scored.
        classes: how many there are.
        penalties: to choose from, rising.
    """
    known = features.double().numpy()
    mean, std = known.mean(0), known.std(0)
    std = np.where(std > 0, std, 1.0)
    kind: LabelKind = "single" if labels.ndim == 1 else "multi"
    primary = evaluation.PRIMARY[kind]
    best, most = None, -np.inf
    for penalty in penalties:
        weights, bias = fitted((known - mean) / std, labels, classes, penalty)
        found = Linear(weights, bias, mean, std, penalty)
        scores = evaluation.metrics(found.logits(tuning[0]), tuning[1], kind)
        if (score := scores.get(primary, -np.inf)) >= most:
            best, most = found, score
    assert best is not None, "no penalty to choose from"
    return best


def fitted(
    features: Features, labels: NDArray[np.integer], classes: int, penalty: float
) -> tuple[Features, Features]:
    """Minimise mean cross-entropy + penalty/2 times the weights' squared norm.

    Args:
        features: float64 (n, width), standardised.
        labels: int64 (n,): one softmax; or 0/1 (n, classes): a sigmoid for each class.
        classes: how many there are.
        penalty: positive.

    Returns:
        Weights (classes, width) and bias (classes,), float64. A class that is in no image, or a
        label that is in all, gets no weights and a constant logit.
    """
    weights = np.zeros((classes, features.shape[1]))
    if labels.ndim == 1:
        present = np.unique(labels)
        bias = np.full(classes, ABSENT)
        bias[present] = 0.0
        if len(present) > 1:
            found, offsets = _regression(features, labels, penalty)
            if len(present) == 2:  # one plane tells two classes apart
                found, offsets = (
                    np.concatenate([-found, found]) / 2,
                    np.array([-1, 1]) * offsets / 2,
                )
            weights[present], bias[present] = found, offsets
        return weights, bias
    bias = np.where(labels.any(0), -ABSENT, ABSENT)
    for index in np.flatnonzero(labels.any(0) & ~labels.all(0)):
        found, offsets = _regression(features, labels[:, index], penalty)
        weights[index], bias[index] = found[0], offsets[0]
    return weights, bias


def _regression(
    features: Features, labels: NDArray[np.integer], penalty: float
) -> tuple[Features, Features]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Sums of several threads are rounded otherwise.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1 / (penalty * len(labels)), max_iter=ITERATIONS)
        model.fit(features, labels)
    return model.coef_, model.intercept_
