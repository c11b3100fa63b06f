"""Similarity distillation against slow restatements, and what must not change it."""

import math

import pytest
import torch
from torch import Tensor

from fedx_core.learning import similarity


def vectors(seed: int, count: int = 6, width: int = 5) -> Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return similarity.unit(drawn)


def slow_shares(z: Tensor, tau: float) -> list[list[float]]:
    """p_ij, the softmax over j other than i of z_i z_j / tau."""
    found = []
    for i in range(len(z)):
        weights = [
            0.0
            if j == i
            else math.exp(sum(float(a * b) for a, b in zip(z[i], z[j], strict=True)) / tau)
            for j in range(len(z))
        ]
        found.append([w / sum(weights) for w in weights])
    return found


def test_the_loss_is_the_mean_divergence_from_the_teachers_weighted_shares() -> None:
    teachers, weights, tau = [vectors(1), vectors(2, width=3)], [3.0, 1.0], 0.2
    student, chosen = vectors(3), torch.tensor([4, 0, 5, 2])
    shares = [slow_shares(z[chosen], tau) for z in teachers]
    own = slow_shares(student[chosen], tau)
    total = 0.0
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            mean = sum(w / 4 * p[i][j] for w, p in zip(weights, shares, strict=True))
            total += mean * math.log(mean / own[i][j])
    taught = similarity.agreed(teachers, weights, chosen, tau)
    found = similarity.divergence(taught, similarity.relations(student[chosen], tau))
    assert float(found) == pytest.approx(total / 4, rel=1e-5)


def test_teachers_that_are_the_student_teach_nothing() -> None:
    raw = vectors(3).requires_grad_()
    chosen = torch.arange(6)
    taught = similarity.agreed([vectors(3)] * 2, [1.0, 5.0], chosen, 0.1)
    loss = similarity.divergence(taught, similarity.relations(similarity.unit(raw), 0.1))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, raw)
    assert float(gradient.abs().max()) < 1e-6


def test_the_basis_of_a_teacher_does_not_matter() -> None:
    teacher, chosen = vectors(1), torch.arange(6)
    turned, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(9)))
    for other in (teacher[:, [3, 1, 4, 0, 2]], teacher @ turned):
        torch.testing.assert_close(
            similarity.agreed([other], [1.0], chosen, 0.1),
            similarity.agreed([teacher], [1.0], chosen, 0.1),
        )


def test_far_images_at_a_low_temperature_leave_loss_and_gradient_finite() -> None:
    raw = torch.eye(4)[[0, 0, 1, 1]].clone().requires_grad_()
    taught = similarity.agreed([torch.eye(4)[[0, 1, 0, 1]]], [1.0], torch.arange(4), 1e-3)
    loss = similarity.divergence(taught, similarity.relations(similarity.unit(raw), 1e-3))
    (gradient,) = torch.autograd.grad(loss, raw)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_likeness_is_the_mean_cosine_of_all_pairs() -> None:
    z = vectors(4)
    pairs = [float(z[i] @ z[j]) for i in range(6) for j in range(6) if i != j]
    assert similarity.likeness(z) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    alike = similarity.unit(torch.ones(6, 5) + 0.01 * vectors(5))
    assert similarity.likeness(alike) > similarity.COLLAPSED > similarity.likeness(z)


def test_a_rest_of_few_images_is_left_out() -> None:
    order = torch.arange(100)
    assert [len(part) for part in similarity.batches(order, 40)] == [40, 40]
    assert [len(part) for part in similarity.batches(order, 64)] == [64, 36]
    assert [len(part) for part in similarity.batches(order[:40], 128)] == [40]
