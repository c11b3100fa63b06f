"""Each objective's loss, written a second time and slowly, straight from its equation."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedx_core.base import state
from fedx_core.images.pixels import Pixels
from fedx_core.objectives import _masked, _views, base, byol, mae, moco, simclr, simmim
from fedx_core.objectives.base import Seen


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))


def test_simclr_is_the_mean_over_all_views_of_each_pairs_share() -> None:
    one, other, tau = drawn(5, 7), drawn(5, 7, seed=1), 0.2
    views = [*one, *other]
    total = 0.0
    for i, view in enumerate(views):
        pair = (i + 5) % 10
        all_others = sum(math.exp(cosine(view, views[j]) / tau) for j in range(10) if j != i)
        total -= math.log(math.exp(cosine(view, views[pair]) / tau) / all_others)
    assert float(simclr.contrast(one, other, tau)) == pytest.approx(total / 10, rel=1e-5)


def test_simclr_of_perfect_pairs_that_are_orthogonal_has_its_closed_form() -> None:
    views = torch.eye(2)
    for tau in (0.1, 0.2, 1.0):
        found = float(simclr.contrast(views, views * 3, tau))
        assert found == pytest.approx(math.log(1 + 2 * math.exp(-1 / tau)), abs=1e-7)


def test_moco_tells_a_querys_key_from_the_queue_alone() -> None:
    queries, keys, queue = (
        nn.functional.normalize(part, dim=1) for part in (drawn(4, 6), drawn(4, 6, seed=1),
                                                          drawn(9, 6, seed=2))
    )  # fmt: skip
    tau, total = 0.2, 0.0
    for query, key in zip(queries, keys, strict=True):
        own = math.exp(cosine(query, key) / tau)
        others = sum(math.exp(cosine(query, known) / tau) for known in queue)
        total -= math.log(own / (own + others))
    assert float(moco.find(queries, keys, queue, tau)) == pytest.approx(total / 4, rel=1e-5)
    # Nothing to tell apart yet.
    assert float(moco.find(queries, keys, queue[:0], tau)) == 0.0


def test_byol_is_two_minus_twice_the_cosine_both_ways() -> None:
    one, other = drawn(3, 5), drawn(3, 5, seed=1)
    by_hand = sum(2 - 2 * cosine(a, b) for a, b in zip(one, other, strict=True)) / 3
    assert float(byol.apart(one, other)) == pytest.approx(by_hand, rel=1e-6)
    assert float(byol.apart(one, one * 7)) == pytest.approx(0.0, abs=1e-6)
    assert float(byol.apart(one, -one)) == pytest.approx(4.0, rel=1e-6)


class Tiny(nn.Module):
    """An encoder of vectors, with heads, small enough to be done by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(drawn(4, 3))
        self.projector = nn.Linear(4, 3, bias=False)
        self.predictor = nn.Linear(3, 3, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T


def test_byols_target_sees_the_other_view_and_gets_no_gradient() -> None:
    network, objective = Tiny(), byol.Objective()
    beside = objective.beside(network)
    with torch.no_grad():
        beside.copy.weight.add_(1.0)
    seen = Seen((drawn(6, 3), drawn(6, 3, seed=1)))
    loss = objective.loss(objective.outputs(network, seen), seen, None, beside)
    total = 0.0
    for image in range(6):
        for view, other in ((0, 1), (1, 0)):
            predicted = network.predictor(network.projector(network(seen.views[view][image])))
            target = beside.copy.projector(beside.copy(seen.views[other][image]))
            total += 2 - 2 * cosine(predicted, target)
    assert float(loss.detach()) == pytest.approx(total / 6, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in beside.parameters())
    assert not hasattr(beside.copy, "predictor")


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_a_momentum_copy_moves_by_its_share_of_the_way(name: str) -> None:
    network = Tiny()
    network.projector = nn.Sequential(nn.Linear(4, 3))
    objective: Any = {"moco": moco, "byol": byol}[name].Objective(momentum=0.9)
    beside = objective.beside(network)
    before = {n: p.clone() for n, p in beside.copy.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    objective.after_step(network, beside)
    own = dict(network.named_parameters())
    for moved, parameter in beside.copy.named_parameters():
        expected = 0.9 * before[moved] + 0.1 * own[moved]
        torch.testing.assert_close(parameter, expected)


def test_the_queue_holds_the_last_keys_newest_first_and_forgets_after_an_absence() -> None:
    network = Tiny()
    network.projector = nn.Sequential(nn.Linear(4, 3))
    objective = moco.Objective(queue=5)
    beside: Any = objective.beside(network)
    told = []
    for step in range(3):
        seen = Seen((drawn(2, 3, seed=step), drawn(2, 3, seed=10 + step)))
        objective.loss(objective.outputs(network, seen), seen, None, beside)
        told.append(beside.keys.clone())
        objective.after_step(network, beside)
        assert int(beside.filled) == min(2 * (step + 1), 5)
    torch.testing.assert_close(beside.queue, torch.cat([told[2], told[1], told[0]])[:5])
    kept = copy.deepcopy(beside)
    objective.returned(kept, 0)
    assert int(kept.filled) == 5
    objective.returned(kept, 1)
    assert int(kept.filled) == 0
    assert not kept.queue.any()


def test_simmim_counts_hidden_pixels_alone() -> None:
    whole, guessed = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4, seed=1)
    hidden = drawn(2, 1, 5, 4, seed=2) > 0
    total, count = 0.0, 0
    for n in range(2):
        for band in range(3):
            for y in range(5):
                for x in range(4):
                    if hidden[n, 0, y, x]:
                        total += abs(float(guessed[n, band, y, x] - whole[n, band, y, x]))
                        count += 1
    assert float(simmim.error(guessed, whole, hidden)) == pytest.approx(total / count, rel=1e-5)


def test_mae_counts_left_out_patches_alone_each_brought_to_deviation_one() -> None:
    images = drawn(2, 3, 8, 8)
    patches = _masked.patches_of(images, 4)
    assert patches.shape == (2, 4, 48)
    torch.testing.assert_close(patches[1, 2], images[1, :, 4:, :4].reshape(-1))
    guessed, hidden = drawn(2, 4, 48, seed=1), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1]]).bool()
    total = 0.0
    for n in range(2):
        for place in range(4):
            if hidden[n, place]:
                patch = patches[n, place].double()
                scaled = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
                total += float((guessed[n, place].double() - scaled).square().mean())
    found = mae.error(guessed, _masked.normalised(patches), hidden)
    assert float(found) == pytest.approx(total / 5, rel=1e-5)


def test_as_many_patches_are_hidden_in_each_image_never_none_and_never_all() -> None:
    random = np.random.default_rng(0)
    for patches, share in ((64, 0.75), (64, 0.6), (4, 0.01), (4, 0.99), (2, 0.5)):
        hidden = _masked.draw(50, patches, share, random)
        counts = set(hidden.sum(1).tolist())
        assert counts == {min(max(round(share * patches), 1), patches - 1)}
        assert hidden.any(0).all()
    spread = _masked.spread(torch.tensor([[[True, False], [False, True]]]), 3, 5, 5)
    assert spread.shape == (1, 1, 5, 5)
    assert spread[0, 0, :3, :3].all()
    assert spread[0, 0, 3:, 3:].all()
    assert int(spread.sum()) == 9 + 4


def test_no_head_is_taken_for_the_encoders() -> None:
    network = Tiny()
    assert base.entries_of(network, "projector") == {"projector.weight"}
    assert byol.Objective().local(network) == frozenset()
    local = byol.Objective(heads="local").local(network)
    assert local == {"projector.weight", "predictor.weight"}


class Image(nn.Module):
    """A small network with a head of its own in the classifier's place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3)
        self.fc = nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.fc(self.conv1(inputs).mean((2, 3)))
        return found


@pytest.mark.parametrize("objective", [simclr.Objective(), byol.Objective(), moco.Objective()])
def test_what_is_explained_is_how_alike_two_views_of_an_image_are(objective: Any) -> None:
    network = objective.build(Image(), "fc").train()
    images = drawn(6, 3, 16, 16)
    for _ in range(3):  # so that BatchNorm's statistics are not those of its start
        objective.embedded(network, images * 2 + 1)
    pixels = Pixels(
        scale=1.0, mean=(0.4,) * 3, std=(0.2,) * 3, input_size=None, memory_format="contiguous"
    )
    before = state.copy(network.state_dict())
    model, first = objective.compared(network, "fc", images, pixels, np.random.default_rng(5))
    random = np.random.default_rng(5)
    views = [_views.tinted(_views.placed(images, random), pixels, random) for _ in range(2)]
    assert torch.equal(first, views[0])
    logits = model(first)
    assert logits.shape == (6, 6)
    network.eval()
    for i in range(6):
        one, other = (network.projector(network(view[i : i + 1]))[0] for view in views)
        assert float(logits[i, i]) == pytest.approx(cosine(one, other), abs=1e-5)
    assert state.equal(before, network.state_dict())
    assert not model.training
    assert [name for name, _ in model.named_children()] == ["conv1", "fc"]
