"""Optimisers, schedules and losses as settings: torch's own, straight from their formulas."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bed import Bed, tiny
from fedx_core.base import config, seeding, state
from fedx_core.base.config import Schedule, TrainingConfig, laid_out
from fedx_core.base.errors import ConfigError
from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.learning.training import LocalRule, batches, fit
from fedx_core.models import catalogue
from fedx_core.objectives.base import Task
from fedx_core.objectives.supervised import class_weights, loss
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store

PIXELS = Pixels(
    scale=255.0, mean=(0.5,) * 3, std=(0.2,) * 3, input_size=None, memory_format="contiguous"
)


def settings(**changes: Any) -> TrainingConfig:
    base = tiny(training__epochs=2, training__batch_size=8, training__memory_format="contiguous")
    return replace(base.training, **changes)


def images(count: int = 20) -> Examples:
    random = np.random.default_rng(0)
    return Examples(
        random.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8),
        random.integers(0, 4, count),
        np.zeros(count, np.int16),
    )


def rates(schedule: Schedule, rounds: int) -> list[float]:
    training = laid_out(settings(learning_rate=1.0, schedule=schedule), rounds)
    return [training.rate(index, 0, 0, 1) for index in range(1, rounds + 1)]


def torchs(scheduler: Any, rounds: int, **arguments: Any) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    found = scheduler(optimiser, **arguments)
    rates = []
    for _ in range(rounds):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        found.step()
    return rates


def test_schedules_are_those_of_torch() -> None:
    from torch.optim import lr_scheduler as torch_has

    assert rates(Schedule(), 5) == [1.0] * 5
    assert rates(Schedule(name="cosine", floor=0.1), 20) == pytest.approx(
        torchs(torch_has.CosineAnnealingLR, 20, T_max=20, eta_min=0.1)
    )
    assert rates(Schedule(name="step", every=3, factor=0.5), 10) == pytest.approx(
        torchs(torch_has.StepLR, 10, step_size=3, gamma=0.5)
    )
    assert rates(Schedule(warmup=4), 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_a_cosine_begins_anew_at_its_restarts() -> None:
    found = rates(Schedule(name="cosine", floor=0.1, restarts=(3.0, 5.0)), 9)
    slow = []
    for begun, ends in ((0, 3), (3, 5), (5, 9)):
        for done in range(begun, ends):
            cosine = math.cos(math.pi * (done - begun) / (ends - begun))
            slow.append(0.1 + 0.9 * (1 + cosine) / 2)
    assert found == pytest.approx(slow, rel=1e-12)


def test_a_cosine_begins_behind_its_warm_up_and_stays_at_its_floor() -> None:
    found = rates(Schedule(name="cosine", floor=0.1, warmup=2, length=6), 8)
    by_hand = [0.5, 1.0] + [0.1 + 0.45 * (1 + math.cos(math.pi * k / 4)) for k in range(5)] + [0.1]
    assert found == pytest.approx(by_hand)
    assert rates(Schedule(name="step", every=1, factor=0.1, floor=0.05), 3) == [1.0, 0.1, 0.05]


def test_steps_of_tenths_fall_when_they_are_due() -> None:
    within = settings(
        learning_rate=1.0, round_schedule=Schedule(name="step", every=0.1, factor=0.5)
    )
    assert [within.rate(1, 0, batch, 10) for batch in range(10)] == [0.5**k for k in range(10)]


@pytest.mark.parametrize(
    ("changes", "kind", "arguments"),
    [
        ({}, torch.optim.Adam, {}),
        ({"optimiser": "adamw"}, torch.optim.AdamW, {}),
        ({"optimiser": "sgd"}, torch.optim.SGD, {}),
        (
            {"optimiser": "sgd", "momentum": 0.9, "nesterov": True},
            torch.optim.SGD,
            {"momentum": 0.9, "nesterov": True},
        ),
    ],
)
def test_a_step_is_the_optimisers_of_torch_at_the_rate_of_its_round_and_its_step(
    changes: dict[str, Any], kind: Any, arguments: dict[str, Any]
) -> None:
    training = settings(
        flips=False, learning_rate=0.01, weight_decay=0.01, **changes,
        schedule=Schedule(name="cosine", floor=0.1, length=10),
        round_schedule=Schedule(name="cosine", floor=0.01, warmup=0.5),
    )  # fmt: skip
    examples, model = images(), catalogue.build("resnet6", 3, 4, seed=1)
    by_hand = copy.deepcopy(model).train()
    optimiser = kind(by_hand.parameters(), lr=0.01, weight_decay=0.01, fused=True, **arguments)
    over_rounds = 0.1 + 0.45 * (1 + math.cos(math.pi * 6 / 10))  # round 7 of 10
    used = []
    for epoch in range(2):
        seen = batches(examples, training, seeding.derive(9, epoch))
        for batch, (pixels, labels) in enumerate(seen):
            done = epoch + batch / 3
            warm = min(1.0, (done + 1 / 3) / 0.5)
            share = min(max((done - 0.5) / 1.5, 0.0), 1.0)
            left = warm * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
            optimiser.param_groups[0]["lr"] = 0.01 * over_rounds * left
            used.append(left)
            optimiser.zero_grad()
            logits = by_hand(PIXELS.to_input(pixels, torch.device("cpu")))
            nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
            optimiser.step()
    assert len(used) == 6
    assert used[0] < max(used) > used[-1]
    fit(model, examples, label_kind="single", pixels=PIXELS, settings=training, seed=9,
        round_index=7)  # fmt: skip
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_kept_momentum_makes_several_fits_one_long_training(momentum: float) -> None:
    training = settings(optimiser="sgd", momentum=momentum, learning_rate=0.05)
    kept, fresh = (catalogue.build("resnet6", 3, 4, seed=1) for _ in range(2))
    long = copy.deepcopy(kept)
    optimiser = torch.optim.SGD(
        long.parameters(), lr=0.05, momentum=momentum, weight_decay=1e-4, fused=True
    )
    moments: state.StateDict = {}
    arguments = {"label_kind": "single", "pixels": PIXELS, "settings": training}
    for seed in (1, 2):
        fit(kept, images(), seed=seed, moments=moments, **arguments)
        fit(fresh, images(), seed=seed, **arguments)
        for epoch in range(2):
            for pixels, labels in batches(images(), training, seeding.derive(seed, epoch)):
                optimiser.zero_grad()
                logits = long.train()(PIXELS.to_input(pixels, torch.device("cpu")))
                nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
                optimiser.step()
    assert state.equal(kept.state_dict(), long.state_dict())
    assert state.equal(kept.state_dict(), fresh.state_dict()) is (momentum == 0)
    assert bool(moments) is (momentum > 0)


@pytest.mark.parametrize("changes", [{"optimiser": "adamw"}, {"optimiser": "sgd", "momentum": 0.9}])
def test_what_is_held_at_zero_stays_there_under_any_optimiser(changes: dict[str, Any]) -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    with torch.no_grad():
        model.conv1.weight[3] = 0.0

    def hold(found: nn.Module) -> None:
        found.conv1.weight.grad[3] = 0.0

    decayed = settings(weight_decay=0.1, **changes)
    rule = LocalRule(before_step=hold)
    fit(model, images(), label_kind="single", pixels=PIXELS, settings=decayed, seed=1, rule=rule)
    assert not model.conv1.weight[3].any()
    assert bool(model.conv1.weight.any())


def loss_of(label_kind: Any, training: TrainingConfig, labels: Any) -> Any:
    task = Task(label_kind=label_kind, labels=labels, pixels=PIXELS, settings=training)
    return lambda logits, targets: loss(logits, targets, task)


def smoothed(logits: Tensor, target: int, smoothing: float) -> float:
    """Cross-entropy against a target of which a share is spread over all classes."""
    logs = (logits - logits.max()).exp()
    logs = (logs / logs.sum()).log()
    wanted = torch.full_like(logits, smoothing / len(logits))
    wanted[target] += 1 - smoothing
    return -float((wanted * logs).sum())


def test_smoothing_and_weights_change_the_loss_as_their_formulas_say() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=random, dtype=torch.float64)
    targets = torch.tensor([0, 0, 1, 0, 3])
    labels = targets.numpy()
    plain = loss_of("single", settings(label_smoothing=0.2), labels)
    by_hand = sum(smoothed(row, int(t), 0.2) for row, t in zip(logits, targets, strict=True)) / 5
    assert float(plain(logits, targets)) == pytest.approx(by_hand)

    # Three of class 0, one each of 1 and 3, none of 2: n / (k n_c).
    balanced = settings(class_weights="balanced")
    weights = class_weights(balanced, labels, 4)
    assert weights is not None
    assert weights.tolist() == pytest.approx([5 / 9, 5 / 3, 1, 5 / 3])
    each = [smoothed(row, int(t), 0.0) for row, t in zip(logits, targets, strict=True)]
    counted = [float(weights[t]) for t in targets]
    expected = sum(w * loss for w, loss in zip(counted, each, strict=True)) / sum(counted)
    assert float(loss_of("single", balanced, labels)(logits, targets)) == pytest.approx(expected)
    # Each class counts alike in the end.
    assert counted[0] * 3 == pytest.approx(counted[2]) == pytest.approx(counted[4])


def test_several_labels_are_weighed_against_their_absence() -> None:
    labels = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], np.uint8)
    weights = class_weights(settings(class_weights="balanced"), labels, 4)
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.25 / 4, 3, 1, 1])
    given = settings(class_weights=(1.0, 2.0, 3.0, 4.0), label_smoothing=0.1)
    logits = torch.linspace(-2, 2, 16).reshape(4, 4)
    targets = torch.from_numpy(labels).float()
    soft = targets * 0.9 + 0.05
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    yes, no = logits.sigmoid().log(), (-logits).sigmoid().log()
    by_hand = -(weight * soft * yes + (1 - soft) * no).mean()
    found = loss_of("multi", given, labels)(logits, targets)
    assert float(found) == pytest.approx(float(by_hand), rel=1e-5)


def test_a_plan_says_how_long_its_cosine_is_and_nothing_of_the_run_otherwise() -> None:
    cosine = tiny(training__schedule="cosine", federation__rounds=7)
    assert laid_out(cosine.training, 7).schedule == Schedule(name="cosine", length=7.0)
    for schedule in (Schedule(), Schedule(name="cosine", length=3.0)):
        training = replace(cosine.training, schedule=schedule)
        assert laid_out(training, 7) is training


def test_a_name_stands_for_a_schedule_and_another_name_drops_what_the_first_had() -> None:
    assert tiny(training__schedule="cosine").training.schedule == Schedule(name="cosine")
    block = {"name": "step", "every": "5", "factor": "0.5"}
    stepped = tiny(training__schedule=block)
    assert stepped.training.schedule == Schedule(name="step", every=5.0, factor=0.5)
    again = config.override(config.as_plain(stepped), {"training.schedule.name": "cosine"})
    assert config.parse(again).training.schedule == Schedule(name="cosine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "lion"}, r"training\.optimiser: wanted 'adam', 'adamw' or 'sgd'.*'lion'"),
        ({"optimizer": "sgd"}, r"no setting 'training\.optimizer'; did you mean 'training\.optim"),
        ({"momentum": 0.9}, r"training\.momentum and nesterov are of sgd, got optimiser adam; set"),
        ({"optimiser": "sgd", "nesterov": True}, r"nesterov needs a momentum, got 0; set momentum"),
        ({"optimiser": "sgd", "momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1\.0"),
        ({"schedule": "cosin"}, r"training\.schedule\.name: wanted .*did you mean 'cosine'"),
        (
            {"schedule": {"name": "cosine", "flor": 0.1}},
            r"mean 'training\.schedule\.floor'",
        ),
        ({"schedule": {"name": "cosine", "floor": 1.0}}, r"floor must lie in \[0, 1\)"),
        ({"schedule": {"name": "constant", "restarts": [3]}}, "restarts is of cosine, got name"),
        ({"schedule": {"name": "cosine", "restarts": [4, 2]}}, r"restarts must rise.*got \[4"),
        ({"schedule": {"name": "constant", "floor": 0.1}}, r"floor is of a rate that falls; set"),
        ({"schedule": "step"}, r"step needs every and factor, such as"),
        ({"schedule": {"name": "step", "every": 0, "factor": 0.1}}, r"every must be positive"),
        ({"schedule": {"name": "step", "every": 1, "factor": 1.0}}, r"factor must lie in \(0, 1"),
        (
            {"schedule": {"name": "cosine", "every": 3}},
            r"every and factor are of step, got name co",
        ),
        ({"schedule": {"name": "cosine", "warmup": 3}}, r"training\.schedule\.warmup must be less"),
        ({"round_schedule": {"warmup": 1}}, r"round_schedule\.warmup must be less than the 1 "),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"class_weights": []}, r"class_weights must be none, balanced, or a list"),
        ({"class_weights": [1, 0]}, r"positive weight for each class, got \[1\.0, 0\.0\]"),
        ({"class_weights": "even"}, r"training\.class_weights"),
    ],
)
def test_absurd_settings_are_refused_and_say_what_would_do(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(federation__rounds=3, **{f"training__{k}": v for k, v in changes.items()})


def final(bed: Bed, run: str, **changes: Any) -> state.StateDict:
    setting = bed.setting(run)
    list(federate(tiny(method__name="fedavg", **changes), setting, InProcess(1)))
    return final_model(open_store(setting.place.store))


def test_a_federation_trains_with_what_its_settings_ask_for_and_again_to_the_bit(bed: Bed) -> None:
    sgd = {"training__optimiser": "sgd", "training__momentum": 0.9, "training__learning_rate": 0.03}
    cosine = {"training__schedule": {"name": "cosine", "floor": 0.1}}
    weights = {"training__class_weights": "balanced", "training__label_smoothing": 0.1}
    runs = {
        "adam": final(bed, "adam"),
        "sgd": final(bed, "sgd", **sgd),
        "cosine": final(bed, "cosine", **sgd, **cosine),
        "weights": final(bed, "weights", **sgd, **cosine, **weights),
    }
    assert len({state.digest(model) for model in runs.values()}) == len(runs)
    assert state.equal(final(bed, "again", **sgd, **cosine, **weights), runs["weights"])


def test_a_step_to_the_next_round_is_as_large_as_the_schedule_says(bed: Bed) -> None:
    # Plain SGD on one batch a round: the first step is the gradient times the rate.
    one = {
        "training__optimiser": "sgd", "training__weight_decay": 0.0, "training__batch_size": 96,
        "federation__rounds": 1, "federation__clip": "none",
    }  # fmt: skip
    start = final(bed, "start", **one, training__learning_rate=1e-30)
    whole = state.subtract(final(bed, "whole", **one, training__learning_rate=1e-2), start)
    half = {"training__schedule": {"name": "cosine", "warmup": 0.5, "floor": 0.5}}
    low = {"training__round_schedule": {"name": "step", "every": 0.5, "factor": 0.25}}
    same = final(bed, "same", **one, **half, **low, training__learning_rate=1e-2)
    low["training__round_schedule"]["every"] = 0.4  # half a step is behind it
    quarter = final(bed, "quarter", **one, **half, **low, training__learning_rate=1e-2)
    name = "fc.weight"
    torch.testing.assert_close(same[name] - start[name], whole[name] * 0.25, rtol=1e-3, atol=1e-8)
    assert state.equal(quarter, same)


def test_a_branch_shares_no_rounds_of_a_schedule_that_depends_on_how_many_there_are(
    bed: Bed,
) -> None:
    cosine = {"training__schedule": "cosine"}
    final(bed, "base", federation__rounds=2, **cosine)
    branch = Branch(store=bed.setting("base").place.store, round_index=1)
    with pytest.raises(ConfigError, match=r"which are 2 in the run to branch from and 3 here"):
        list(federate(tiny(**cosine), bed.setting("other"), InProcess(1), branch=branch))
    reports = list(federate(
        tiny(method__warmup_rounds=1, federation__rounds=2, **cosine),
        bed.setting("same"), InProcess(1), branch=branch,
    ))  # fmt: skip
    assert reports[-1].round_index == 2


def test_weights_for_other_classes_than_there_are_are_refused_before_a_run(bed: Bed) -> None:
    wrong = tiny(training__class_weights=[1, 2, 3])
    with pytest.raises(ConfigError, match=r"has 3 weights and the data set 10 classes; give one"):
        list(federate(wrong, bed.setting(), InProcess(1)))
