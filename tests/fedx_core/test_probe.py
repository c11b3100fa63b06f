"""Probes: the fit against its definition, draws of few labels, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bed import tiny
from fedx_core.base.errors import DataError, SchemaError
from fedx_core.images.examples import Description, Examples
from fedx_core.images.pixels import Pixels
from fedx_core.images.set_folder import Prepared
from fedx_core.learning import fine_tuning, linear
from fedx_core.models import catalogue
from fedx_core.predict import probe
from fedx_core.predict.model_file import Card

BANDS = ("B04", "B03", "B02")
CARD = Card(
    format=1, version="0", run="encoder", seed=5, round_index=2, dataset="made", model="resnet6",
    bands=BANDS, class_names=("unlabelled",), label_kind="single", image_size=16,
    pixels=Pixels(scale=255.0, mean=(0.5,) * 3, std=(0.25,) * 3, input_size=None,
                  memory_format="contiguous"),
    units_kept={},
)  # fmt: skip
ABOUT = Description(
    name="made", bands=BANDS, class_names=("dark", "light"), label_kind="single", image_size=16,
    scale=255.0,
)  # fmt: skip


def clouds(count: int, classes: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Draw features around a centre for each class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = random.normal(size=(count, 6)) + 1.5 * np.eye(6)[labels]
    return torch.from_numpy(features).float(), labels


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_a_probe_is_where_the_penalised_mean_loss_has_no_slope(
    classes: int, penalty: float
) -> None:
    features, labels = clouds(60, classes, 1)
    weights, bias = linear.fitted(features.double().numpy(), labels, classes, penalty)
    plane = torch.tensor(weights, requires_grad=True)
    offset = torch.tensor(bias, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for feature, label in zip(features.double(), labels.tolist(), strict=True):
        logits = [(feature * plane[c]).sum() + offset[c] for c in range(classes)]
        total = total - torch.log(torch.exp(logits[label]) / sum(torch.exp(x) for x in logits))
    # One plane for two classes stands for two opposite ones, whose squares are half of its own.
    strength = 2 * penalty if classes == 2 else penalty
    (total / len(labels) + strength / 2 * (plane**2).sum()).backward()
    assert plane.grad is not None
    assert offset.grad is not None
    assert float(plane.grad.abs().max()) < 1e-3
    assert float(offset.grad.abs().max()) < 1e-3


def test_of_several_labels_each_has_a_plane_and_one_that_all_bear_needs_none() -> None:
    features, classes = clouds(60, 3, 2)
    labels = np.stack([classes == 0, classes != 0, np.ones(60, bool), np.zeros(60, bool)], 1)
    found = linear.chosen(features, labels.astype(np.uint8), (features, labels), 4)
    logits = found.logits(features)
    assert ((logits[:, :2] > 0).numpy() == labels[:, :2]).mean() > 0.8
    assert bool((logits[:, 2] == -linear.ABSENT).all() & (logits[:, 3] == linear.ABSENT).all())
    weights, bias = found.folded()
    torch.testing.assert_close(features @ weights.T + bias, logits, atol=1e-4, rtol=1e-4)


def test_the_tuning_part_chooses_the_penalty_and_an_absent_class_is_never_said() -> None:
    features, labels = clouds(40, 2, 3)
    found = linear.chosen(features, labels, clouds(40, 2, 4), 3)
    assert found.penalty in linear.PENALTIES
    assert set(found.logits(features).argmax(1).tolist()) == {0, 1}


def test_few_labels_keep_the_mix_of_classes_and_no_class_is_left_out() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 4)
    found = fine_tuning.drawn(labels, 0.1, 7)
    assert np.bincount(labels[found]).tolist() == [6, 3, 1]
    assert found.tolist() == fine_tuning.drawn(labels, 0.1, 7).tolist()
    assert found.tolist() != fine_tuning.drawn(labels, 0.1, 8).tolist()
    assert sorted(set(found.tolist())) == found.tolist()


def made(seed: int, count: int) -> Examples:
    """Draw images of two brightnesses."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    light = (60 + 90 * labels)[:, None, None, None]
    images = random.integers(0, 60, (count, 3, 16, 16)) + light
    return Examples(images.astype(np.uint8), labels, np.zeros(count, np.int16))


def test_a_probe_yields_all_scores_and_the_same_ones_for_any_number_of_workers() -> None:
    parts = {"train": made(1, 40), "validation": made(2, 12), "test": made(3, 20)}
    prepared = Prepared(ABOUT, parts, {}, "digest")
    model = catalogue.build("resnet6", 3, 2, 11)
    encoder = probe.encoder_of(model.state_dict(), CARD)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    settings = probe.Settings(shares=(0.1,), draws=2, epochs=2)
    how = tiny().training
    found = [list(probe.probed(encoder, CARD, prepared, settings, how, n)) for n in (1, 2)]
    assert found[0] == found[1]
    assert len(found[0]) == settings.steps
    assert [s.encoder for s in found[0]] == ["run"] * 6 + ["random"] * 6
    assert [(s.measure, s.share, s.draw, s.labelled) for s in found[0][:6]] == [
        ("knn", 1.0, 0, 40), ("linear", 1.0, 0, 40), ("linear", 0.1, 0, 4),
        ("fine_tuned", 0.1, 0, 4), ("linear", 0.1, 1, 4), ("fine_tuned", 0.1, 1, 4),
    ]  # fmt: skip
    assert found[0][1].metrics["overall_accuracy"] == 1.0
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": ("B08", "B03", "B02")}, r"other has the bands B08, B03, B02.*reads B04, B03,"),
        ({"scale": 10_000.0}, r"are 0 to 10000 for 0 to 1, and .* reads 0 to 255 for 0 to 1"),
        ({"value_range": (-50.0, 20.0)}, r"for -50 to 20, and .* prepare this one likewise"),
        ({"class_names": ("unlabelled",)}, r"no labels to probe with.*--dataset"),
    ],
)
def test_data_that_an_encoder_cannot_read_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        probe.check(CARD, replace(ABOUT, **changes), "other")


def test_an_empty_part_and_the_weights_of_another_model_are_refused() -> None:
    model = catalogue.build("resnet6", 3, 2, 11)
    encoder = probe.encoder_of(model.state_dict(), CARD)
    parts = {"train": made(1, 8), "validation": made(2, 0), "test": made(3, 8)}
    with pytest.raises(DataError, match=r"made has no validation images"):
        list(probe.probed(encoder, CARD, Prepared(ABOUT, parts, {}, ""), probe.Settings(),
                          tiny().training))  # fmt: skip
    with pytest.raises(SchemaError, match=r"lacks conv1\.weight of a resnet6"):
        probe.encoder_of(catalogue.build("resnet6", 4, 2, 11).state_dict(), CARD)
