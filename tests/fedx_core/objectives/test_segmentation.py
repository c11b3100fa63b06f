"""A class for each pixel: the loss pixel by pixel, the decoder, what pruning and LRP make of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bed import tiny
from fedx_core.base import state
from fedx_core.base.config import Plugin
from fedx_core.base.errors import ConfigError, SchemaError
from fedx_core.clients.plan import MethodDesk, set_up
from fedx_core.desk.plan import Plan
from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.learning import training
from fedx_core.models import catalogue, resnet
from fedx_core.models._unet import UNet
from fedx_core.objectives import segmentation
from fedx_core.objectives.base import Task
from fedx_core.predict import model_file
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.pruning.shrink.model import shrink
from fedx_core.relevance import lrp
from fedx_core.relevance.base import Reference

BANDS, CLASSES = 3, 4
PIXELS = Pixels(
    scale=255.0, mean=(0.5,) * BANDS, std=(0.25,) * BANDS, input_size=None,
    memory_format="contiguous",
)  # fmt: skip


def desk_of(model: str = "resnet6", **changes: Any) -> MethodDesk:
    """With weights and BatchNorm's statistics as after some training."""
    training_ = tiny(training__objective={"name": "segmentation", **changes}).training
    desk = set_up(
        Plan(
            model=model, bands=BANDS, classes=CLASSES, label_kind="pixels", pixels=PIXELS,
            training=training_, method=Plugin(name="fedavg"), codec=Plugin(name="dense"),
        )
    )  # fmt: skip
    random = torch.Generator().manual_seed(1)
    for name, value in desk.model.state_dict().items():
        if "running_mean" in name:
            value.copy_(torch.randn(value.shape, generator=random) * 0.1)
        if "running_var" in name:
            value.copy_(0.5 + torch.rand(value.shape, generator=random))
    return desk


def task_of(maps: Tensor, **settings: Any) -> Task:
    found = tiny(**{f"training__{name}": value for name, value in settings.items()})
    labels = maps.numpy().astype(np.uint8)
    return Task(label_kind="pixels", labels=labels, pixels=PIXELS, settings=found.training)


def maps_and_logits() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    maps = torch.randint(0, CLASSES - 1, (2, 5, 4), generator=random)  # the last never occurs
    maps[0, :2] = 255
    return maps, torch.randn(2, CLASSES, 5, 4, generator=random)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced", (1.0, 2.0, 0.5, 3.0)])
def test_the_loss_is_the_mean_of_known_pixels_one_by_one(smoothing: float, weights: Any) -> None:
    maps, logits = maps_and_logits()
    known = [int(v) for v in maps.flatten() if v != 255]
    if weights == "balanced":
        occur = set(known)
        by_class = [
            len(known) / (len(occur) * known.count(c)) if c in occur else 1.0
            for c in range(CLASSES)
        ]
    else:
        by_class = [1.0] * CLASSES if weights == "none" else list(weights)
    above = below = 0.0
    for image in range(2):
        for row in range(5):
            for column in range(4):
                label = int(maps[image, row, column])
                if label == 255:
                    continue
                scores = [float(v) for v in logits[image, :, row, column]]
                total = math.log(sum(math.exp(v) for v in scores))
                share = [smoothing / CLASSES + (1 - smoothing) * (c == label)
                         for c in range(CLASSES)]  # fmt: skip
                above += sum(
                    s * w * (total - v) for s, w, v in zip(share, by_class, scores, strict=True)
                )
                below += by_class[label]
    task = task_of(maps, label_smoothing=smoothing, class_weights=weights)
    assert float(segmentation.loss(logits, maps, task)) == pytest.approx(above / below, rel=1e-5)


def test_maps_without_a_known_pixel_teach_nothing_and_break_nothing() -> None:
    maps, logits = maps_and_logits()
    logits.requires_grad_()
    nobody = torch.full_like(maps, 255)
    found = segmentation.loss(logits, nobody, task_of(nobody, class_weights="balanced"))
    found.backward()  # type: ignore[no-untyped-call] # torch has no types for it
    assert float(found.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_maps_are_mirrored_as_their_images_are() -> None:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (40, BANDS, 6, 6), dtype=np.uint8)
    # A map that says what the image shows tells whether both went the same way.
    examples = Examples(images, images[:, 0] // 64, np.zeros(40, np.int16))
    before = examples.labels.copy()
    settings = tiny(training__flips=True, training__batch_size=8).training
    moved = 0
    for batch, maps in training.batches(examples, settings, seed=3):
        assert isinstance(batch, np.ndarray)
        np.testing.assert_array_equal(batch[:, 0] // 64, maps)
        moved += sum(not any(np.array_equal(m, b) for b in before) for m in maps)
    assert moved > 20
    np.testing.assert_array_equal(before, examples.labels)


@pytest.mark.parametrize("side", [32, 37])
@pytest.mark.parametrize("model", ["resnet6", "resnet18", "resnet50"])
def test_a_decoder_says_a_class_for_each_pixel_of_any_size(model: str, side: int) -> None:
    desk = desk_of(model, width=8)
    logits = desk.model.eval()(torch.randn(2, BANDS, side, side))
    assert logits.shape == (2, CLASSES, side, side)
    encoder = {n for n in catalogue.build(model, BANDS, CLASSES, 0).state_dict() if "fc." not in n}
    assert encoder <= desk.entries.keys()
    assert desk.heads == desk.entries.keys() - encoder
    # Units are the encoder's alone.
    assert not any(layer.name.startswith(("decoder", "fc")) for layer in desk.graph.layers)


def test_a_level_is_u_nets_convolution_of_both_maps_laid_side_by_side() -> None:
    desk = desk_of()
    level: Any = desk.model.get_submodule("decoder.1")
    level.eval()
    above, skip = torch.randn(1, 32, 4, 4), torch.randn(1, 64, 8, 8)
    weight = torch.cat([level.above.weight, level.beside.weight], 1)
    both = torch.cat([above.repeat_interleave(2, 2).repeat_interleave(2, 3), skip], 1)
    wanted = functional.relu(level.norm(functional.conv2d(both, weight, padding=1)))
    torch.testing.assert_close(level(above, skip), wanted, atol=1e-5, rtol=1e-5)


def half(desk: MethodDesk) -> Mask:
    return keep_highest(
        {
            layer.name: torch.rand(layer.units, generator=torch.Generator().manual_seed(i))
            for i, layer in enumerate(desk.graph.layers)
        },
        0.5,
    )


@pytest.mark.parametrize("model", ["resnet6", "resnet18", "resnet50"])
def test_a_small_network_says_what_one_with_dead_units_says(model: str) -> None:
    desk = desk_of(model)
    mask = half(desk)
    support = desk.graph.support(mask, "slices")
    dead = {
        name: torch.where(support[name], value, 0.0) if name in support else value
        for name, value in desk.model.state_dict().items()
    }
    desk.model.load_state_dict(dead)
    small = shrink(desk.model, desk.graph, mask, desk.entry).eval()
    images = torch.randn(2, BANDS, 32, 32)
    torch.testing.assert_close(small(images), desk.model.eval()(images), atol=1e-4, rtol=1e-4)
    count = sum(parameter.numel() for parameter in small.parameters())
    assert count < 0.75 * sum(parameter.numel() for parameter in desk.model.parameters())
    # The decoder stays whole, and loses what it read of units that are gone.
    for name in ("decoder.0.above", "decoder.1.beside"):
        whole, left = (m.get_submodule(name).weight for m in (desk.model, small))
        assert isinstance(whole, Tensor)
        assert isinstance(left, Tensor)
        assert left.shape[0] == whole.shape[0]
        assert left.shape[1] <= whole.shape[1]


def test_what_is_explained_is_the_mean_over_an_image_of_the_logit_that_is_said() -> None:
    desk = desk_of()
    images = torch.randn(3, BANDS, 32, 32)
    network = desk.model.eval()
    logits = network(images)
    found = desk.objective.explained(network)(images)
    for image in range(3):
        said = logits[image].argmax(0)
        for index in range(CLASSES):
            inside = logits[image, index][said == index].sum() / said.numel()
            torch.testing.assert_close(found[image, index], inside)
    torch.testing.assert_close(network(images), logits)


def test_lrp_hands_relevance_through_the_decoder_to_the_units() -> None:
    desk = desk_of()
    images = torch.randn(4, BANDS, 32, 32)
    network = desk.objective.explained(desk.model.eval())
    said = network(images) > 0
    criterion = lrp.Criterion(aggregation="signed")
    before = state.copy(desk.model.state_dict())
    scores = criterion.score(
        network, desk.graph, desk.entry, Reference(images, said.to(torch.uint8)), seed=1,
        batch_size=2,
    )  # fmt: skip
    assert scores.keys() == {layer.name for layer in desk.graph.layers}
    assert all(bool(values.isfinite().all()) and values.any() for values in scores.values())
    assert state.equal(before, desk.model.state_dict())


@pytest.mark.parametrize("model", ["vit_tiny", "convnextv2_atto"])
def test_models_without_maps_of_several_sizes_are_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=r"which residual networks have; the model is of .*Choos"):
        desk_of(model)
    assert resnet.stages(catalogue.build(model, BANDS, CLASSES, 0)) == {}


@pytest.mark.parametrize(
    ("objective", "kind", "message"),
    [
        (
            "supervised",
            "pixels",
            r"supervised takes labels of whole images.*choose the objective s",
        ),
        ("simclr", "pixels", r"simclr takes labels of whole images.*labels: none"),
        ("segmentation", "single", r"learns a class for each pixel, and the data set has none"),
        ("segmentation", "multi", r"learns a class for each pixel, and the data set has none"),
    ],
)
def test_labels_of_another_kind_are_refused_both_ways(
    objective: str, kind: Any, message: str
) -> None:
    plan = Plan(
        model="resnet6", bands=BANDS, classes=CLASSES, label_kind=kind, pixels=PIXELS,
        training=tiny(training__objective={"name": objective}).training,
        method=Plugin(name="fedavg"), codec=Plugin(name="dense"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        set_up(plan)


def card_of() -> model_file.Card:
    return model_file.Card(
        format=1, version="1", run="run", seed=1, round_index=1, dataset="fields", model="resnet6",
        bands=("r", "g", "b"), class_names=("a", "b", "c", "d"), label_kind="pixels",
        image_size=32, pixels=PIXELS, units_kept={},
    )  # fmt: skip


def test_a_models_file_gives_back_the_network_with_its_decoder(tmp_path: Path) -> None:
    desk = desk_of(width=12)
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file.pack(desk.model.state_dict(), card_of()))
    found, card = model_file.read(path)
    assert isinstance(found, UNet)
    assert card.label_kind == "pixels"
    images = torch.randn(1, BANDS, 32, 32)
    torch.testing.assert_close(found(images), desk.model.eval()(images))
    plain: nn.Module = catalogue.build("resnet6", BANDS, CLASSES, 0)
    path.write_bytes(model_file.pack(plain.state_dict(), card_of()))
    with pytest.raises(SchemaError, match=r"says a class for each pixel, and holds no decoder"):
        model_file.read(path)
