import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedx_core.base import seeding, state
from fedx_core.base.config import TrainingConfig
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.learning import training
from fedx_core.learning.training import LocalRule, batches, fit, pick_device
from fedx_core.models import catalogue
from fedx_core.record import checkpoint

SETTINGS = TrainingConfig(
    epochs=2,
    batch_size=8,
    learning_rate=1e-3,
    weight_decay=1e-4,
    flips=True,
    normalisation="reference",
    batch_norm="aggregate",
    eval_batch_size=8,
    device="cpu",
    amp=False,
    threads=1,
    memory_format="channels_last",
)
PIXELS = Pixels(
    scale=255.0,
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.1, 0.3),
    input_size=None,
    memory_format="channels_last",
)


def draw(count: int = 21, classes: int = 4, *, multi: bool = False) -> Examples:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (count, classes)).astype(np.uint8)
    single = random.integers(0, classes, count)
    images = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return Examples(images, labels if multi else single, np.zeros(count, np.int16))


def trained(seed: int, rule: LocalRule | None = None, **changes: object) -> state.StateDict:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    settings = replace(SETTINGS, **changes)
    fit(model, draw(), label_kind="single", pixels=PIXELS, settings=settings, seed=seed, rule=rule)
    return model.state_dict()


def test_equal_seeds_give_equal_bits_and_other_seeds_others() -> None:
    assert state.equal(trained(5), trained(5))
    assert not state.equal(trained(5), trained(6))


def test_the_loop_equals_one_written_out_by_hand() -> None:
    # The paper's local training: Adam 1e-3, weight decay 1e-4, mean cross-entropy, in this order.
    model = catalogue.build("resnet6", 3, 4, seed=1).to(memory_format=torch.channels_last)
    examples = draw()
    settings = replace(SETTINGS, flips=False, epochs=1)
    by_hand, start = copy.deepcopy(model), copy.deepcopy(model).state_dict()
    optimiser = torch.optim.Adam(by_hand.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    losses = []
    for images, labels in batches(examples, settings, seeding.derive(9, 0)):
        pixels = torch.from_numpy(images).float() / 255
        mean = torch.tensor(PIXELS.mean).reshape(1, 3, 1, 1)
        std = torch.tensor(PIXELS.std).reshape(1, 3, 1, 1)
        inputs = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(by_hand(inputs), torch.from_numpy(labels))
        loss.backward()
        optimiser.step()
        losses.append((loss.item(), len(labels)))
    found = fit(model, examples, label_kind="single", pixels=PIXELS, settings=settings, seed=9)
    assert found == pytest.approx(sum(a * n for a, n in losses) / sum(n for _, n in losses), 1e-5)
    for name, value in by_hand.state_dict().items():
        # Adam makes a step of up to the learning rate of any gradient, a rounding's too, and later
        # gradients follow it: 0.02 of the way on some processors; without weight decay 0.24.
        apart = (model.state_dict()[name] - value).double().norm()
        assert apart <= 0.06 * (value - start[name]).double().norm(), name


def test_sixteen_bits_round_what_a_step_does_and_are_the_same_bits_again() -> None:
    # With SGD a step is its gradient; weights and sums stay in 32 bits.
    step = {"optimiser": "sgd", "learning_rate": 0.1, "epochs": 1}
    start = catalogue.build("resnet6", 3, 4, seed=1).state_dict()
    exact, rounded = trained(5, **step), trained(5, **step, cpu_amp=True)
    assert {value.dtype for value in rounded.values()} == {torch.float32, torch.int64}
    assert not state.equal(exact, rounded)
    assert state.equal(rounded, trained(5, **step, cpu_amp=True))
    for name in ("fc.weight", "fc.bias"):
        apart = (rounded[name] - exact[name]).norm()
        assert apart <= 0.1 * (exact[name] - start[name]).norm(), name


def test_kept_moments_make_several_fits_one_long_training() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1).to(memory_format=torch.channels_last)
    by_hand, start = copy.deepcopy(model), copy.deepcopy(model)
    optimiser = torch.optim.Adam(by_hand.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    moments: state.StateDict = {}
    for seed in (7, 8, 9):
        kept = fit(model, draw(), label_kind="single", pixels=PIXELS, settings=SETTINGS, seed=seed,
                   moments=moments)  # fmt: skip
        for epoch in range(SETTINGS.epochs):
            for images, labels in batches(draw(), SETTINGS, seeding.derive(seed, epoch)):
                optimiser.zero_grad()
                logits = by_hand.train()(PIXELS.to_input(images, torch.device("cpu")))
                torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
                optimiser.step()
        # As bytes, the moments lose their memory format and come back.
        packed = checkpoint.pack_state(moments)
        moments = checkpoint.unpack_state(packed)[0]
    assert state.equal(model.state_dict(), by_hand.state_dict())
    assert float(moments["step/fc.weight"]) == 3 * SETTINGS.epochs * 3
    fresh = [
        fit(start, draw(), label_kind="single", pixels=PIXELS, settings=SETTINGS, seed=seed)
        for seed in (7, 8, 9)
    ]
    assert fresh[-1] != kept


def test_an_epoch_shows_every_image_once_in_another_order() -> None:
    examples = draw(24)
    settings = replace(SETTINGS, flips=False)
    epochs = [
        np.concatenate([images for images, _ in batches(examples, settings, seed)])
        for seed in (1, 2)
    ]
    for seen in epochs:
        assert sorted(i.tobytes() for i in seen) == sorted(i.tobytes() for i in examples.images)
    assert not np.array_equal(epochs[0], epochs[1])


def test_flips_mirror_images_and_nothing_else() -> None:
    examples = draw(40)
    originals = {i.tobytes() for i in examples.images}
    mirrored = {np.flip(i, a).tobytes() for i in examples.images for a in (1, 2, (1, 2))}
    seen = np.concatenate([images for images, _ in batches(examples, SETTINGS, 3)])
    kinds = [image.tobytes() in originals for image in seen]
    assert any(kinds)
    assert not all(kinds)
    assert all(image.tobytes() in originals | mirrored for image in seen)


@pytest.mark.parametrize("least", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 2, 8, 16, 40])
@pytest.mark.parametrize("count", [0, 1, 2, 9, 16, 17])
def test_images_that_are_seen_are_images_that_are_counted(
    count: int, size: int, least: int
) -> None:
    sizes = [
        len(labels)
        for _, labels in batches(
            draw(count), replace(SETTINGS, batch_size=size), 1, torch.device("cpu"), least
        )
    ]
    assert sum(sizes) == training.seen_in_epoch(count, size, least)
    assert sum(sizes) == count - (count % size if count > size and count % size < least else 0)
    assert all(length >= min(least, size) for length in sizes[1:])


def test_a_batch_size_of_one_trains_on_every_image_where_there_is_no_batch_norm() -> None:
    one = replace(SETTINGS, batch_size=1, epochs=1)
    model = catalogue.build("convnextv2_atto", 3, 4, seed=1)
    fitted = {"label_kind": "single", "pixels": PIXELS, "settings": one, "seed": 1}
    steps: list[int] = []
    rule = LocalRule(after_step=lambda model: steps.append(1))
    fit(model, draw(5), rule=rule, **fitted)
    assert len(steps) == 5
    assert np.isfinite(fit(model, draw(1), **fitted))
    with pytest.raises(ConfigError, match=r"training.batch_size: .* got 1; set it to 2 or more"):
        fit(catalogue.build("resnet18", 3, 4, seed=1), draw(5), **fitted)


@pytest.mark.parametrize("name", ["resnet6", "resnet18", "resnet50"])
def test_one_image_for_a_model_with_batch_norm_is_a_clear_error(name: str) -> None:
    model = catalogue.build(name, 3, 4, seed=1)
    with pytest.raises(DataError, match="1 training image, and BatchNorm needs 2"):
        fit(model, draw(1), label_kind="single", pixels=PIXELS, settings=SETTINGS, seed=1)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "mps", "cuda:", "CPU", "cpu:0", "cuda:-1"])
def test_what_names_no_device_is_refused_as_a_setting_and_as_an_option(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no device .*; choose auto"):
        pick_device(name)
    with pytest.raises(ConfigError, match=r"training.device: no device"):
        replace(SETTINGS, device=name)


def test_a_rule_can_penalise_mask_gradients_and_project_weights() -> None:
    plain = trained(5)
    pulled = trained(5, LocalRule(penalty=lambda m: 10 * m.fc.weight.square().sum()))
    assert pulled["fc.weight"].norm() < plain["fc.weight"].norm()

    def freeze(model: torch.nn.Module) -> None:
        model.fc.weight.grad = None

    start = catalogue.build("resnet6", 3, 4, seed=1).state_dict()
    frozen = trained(5, LocalRule(before_step=freeze))
    assert torch.equal(frozen["fc.weight"], start["fc.weight"])

    def project(model: torch.nn.Module) -> None:
        model.fc.weight.data.clamp_(-0.01, 0.01)

    assert trained(5, LocalRule(after_step=project))["fc.weight"].abs().max() <= 0.01
    halved = LocalRule(effective=lambda p: p | {"fc.weight": p["fc.weight"] * 0})
    assert torch.allclose(trained(5, halved, weight_decay=0.0)["fc.weight"], start["fc.weight"])


def test_multi_label_training_lowers_binary_cross_entropy() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    arguments = {"label_kind": "multi", "pixels": PIXELS, "settings": SETTINGS}
    first = fit(model, draw(multi=True), seed=1, **arguments)
    for _ in range(4):
        last = fit(model, draw(multi=True), seed=1, **arguments)
    assert last < first


def test_no_examples_is_a_clear_error() -> None:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    empty = Examples(np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, int), np.zeros(0, np.int16))
    with pytest.raises(DataError, match="no training examples"):
        fit(model, empty, label_kind="single", pixels=PIXELS, settings=SETTINGS, seed=1)


def test_vision_transformers_get_images_of_their_size() -> None:
    pixels = replace(PIXELS, input_size=224)
    batch = pixels.to_input(draw(2).images, torch.device("cpu"))
    assert batch.shape == (2, 3, 224, 224)
    assert training.pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'cuda' was asked for, but torch sees no GPU"):
        pick_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_a_gpu_trains_as_the_cpu_does_but_for_rounding() -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        model = catalogue.build("resnet6", 3, 4, seed=1)
        moments: state.StateDict = {}
        settings = replace(SETTINGS, device=device)
        losses[device] = fit(model, draw(), label_kind="single", pixels=PIXELS, settings=settings,
                             seed=5, moments=moments)  # fmt: skip
        assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
        assert {value.device.type for value in moments.values()} == {"cpu"}
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)
