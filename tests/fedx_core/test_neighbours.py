"""Votes of nearest neighbours, written a second time and slowly."""

import math

import numpy as np
import pytest
import torch

from fedx_core.learning import neighbours
from fedx_core.learning.neighbours import logits, votes


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 1


@pytest.mark.parametrize("most", [1, 4, 100])
@pytest.mark.parametrize("several", [False, True])
def test_votes_are_those_of_the_nearest_by_cosine_weighed_by_how_near(
    most: int, several: bool
) -> None:
    known, asked = features(12, 1), features(3, 2)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (12, 4)) if several else random.integers(0, 4, 12)
    found = votes(known, labels, asked, 4, neighbours=most, temperature=0.1)
    mean, std = known.double().mean(0), known.double().std(0, correction=0)
    bank = [(row.double() - mean) / std for row in known]
    for n, row in enumerate(asked):
        query = (row.double() - mean) / std
        like = [float(query @ b / (query.norm() * b.norm())) for b in bank]
        nearest = sorted(range(12), key=lambda i: -like[i])[:most]
        weights = {i: math.exp(like[i] / 0.1) for i in nearest}
        for label in range(4):
            has = [i for i in nearest if (labels[i, label] if several else labels[i] == label)]
            share = sum(weights[i] for i in has) / sum(weights.values())
            assert float(found[n, label]) == pytest.approx(share, abs=1e-9)


def test_an_image_that_is_known_finds_itself() -> None:
    known, labels = features(30, 1), np.arange(30)
    found = votes(known, labels, known, 30, neighbours=1)
    assert found.argmax(1).tolist() == labels.tolist()


def test_a_feature_that_never_changes_has_no_say_and_ties_go_to_the_first() -> None:
    known = torch.tensor([[1.0, 5.0], [1.0, 5.0], [-1.0, 5.0]])
    found = votes(known, np.array([2, 1, 0]), torch.tensor([[3.0, 5.0]]), 3, neighbours=1)
    assert found.tolist() == [[0.0, 0.0, 1.0]]


def test_logits_have_the_shares_of_votes_for_their_probabilities() -> None:
    shares = torch.tensor([[0.25, 0.75, 0.0]])
    torch.testing.assert_close(
        logits(shares, single=True).softmax(1), shares.float(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        logits(shares, single=False).sigmoid(), shares.float(), atol=1e-5, rtol=0
    )


def test_many_images_are_judged_in_parts_as_they_would_be_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, asked, labels = features(40, 1), features(11, 2), np.arange(40) % 3
    whole = votes(known, labels, asked, 3)
    monkeypatch.setattr(neighbours, "AT_ONCE", 4)
    torch.testing.assert_close(votes(known, labels, asked, 3), whole)
    assert votes(known, labels, asked[:0], 3).shape == (0, 3)
