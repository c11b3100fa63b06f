"""How well features tell classes apart: images vote for the labels of those that they are like.

Source: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR
2018, https://arxiv.org/abs/1805.01978, section 3.4.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20
TEMPERATURE = 0.1
AT_ONCE = 1024
"""Images that are judged at once, so that memory does not grow with their number."""


def votes(
    known: Tensor,
    labels: NDArray[np.integer],
    asked: Tensor,
    classes: int,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Return the share of votes that each class gets.

    Features are brought to mean 0 and deviation 1 by those that are known; the nearest by cosine s
    vote with weight exp(s / temperature). Of equally near ones the first count.

    Args:
        known: (m, width) features of images with labels, m at least 1.
        labels: int64 (m,), or 0/1 (m, classes).
        asked: (n, width) features to be judged.
        classes: how many there are.
        neighbours: that vote; all where fewer are known.
        temperature: the lower, the more the nearest count.

    Returns:
        float64 (n, classes), in [0, 1]; of single labels they sum to one.
    """
    known, asked = known.double(), asked.double()
    mean, std = known.mean(0), known.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    known, asked = (functional.normalize((part - mean) / std, dim=1) for part in (known, asked))
    targets = torch.from_numpy(np.array(labels))
    marks = functional.one_hot(targets.long(), classes) if targets.ndim == 1 else targets
    marks, found = marks.double(), []
    for some in torch.split(asked, AT_ONCE):
        likeness = some @ known.T
        # Stable, so that ties are the same on any machine.
        order = likeness.argsort(dim=1, descending=True, stable=True)[:, :neighbours]
        weights = (likeness.gather(1, order) / temperature).softmax(1)
        found.append((weights[:, :, None] * marks[order]).sum(1))
    return torch.cat(found) if found else torch.empty(0, classes, dtype=torch.float64)


def logits(shares: Tensor, *, single: bool) -> Tensor:
    """Turn shares of votes into logits whose probabilities they are, float32 (n, classes).

    No share counts as less than one in a million.
    """
    shares = shares.clamp(1e-6, 1 - 1e-6)
    found = shares.log() if single else shares.logit()
    return found.float()
