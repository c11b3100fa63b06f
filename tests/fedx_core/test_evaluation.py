import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.learning import evaluation
from fedx_core.models import catalogue

PIXELS = Pixels(
    scale=255.0, mean=(0.4,) * 3, std=(0.2,) * 3, input_size=None, memory_format="contiguous"
)


def test_single_label_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.normal(size=(200, 5))).float()
    labels = random.integers(0, 5, 200)
    found = evaluation.metrics(logits, labels, "single")
    predicted = logits.argmax(1).numpy()
    assert found["overall_accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    recalls = sk.recall_score(labels, predicted, average=None)
    assert evaluation.per_class(logits, labels, "single") == pytest.approx(list(recalls))


def test_multi_label_metrics_are_scikit_learns_over_the_classes_that_occur() -> None:
    random = np.random.default_rng(1)
    logits = torch.from_numpy(random.normal(size=(150, 6)) * 3).float()
    labels = (random.random((150, 6)) < 0.3).astype(np.uint8)
    labels[:, 4] = 0
    present = [0, 1, 2, 3, 5]
    probabilities = logits.double().sigmoid().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluation.metrics(logits, labels, "multi")
    micro = sk.average_precision_score(labels, probabilities, average="micro")
    macro = sk.average_precision_score(
        labels[:, present], probabilities[:, present], average="macro"
    )
    f1 = sk.f1_score(labels[:, present], probabilities[:, present] > 0.5, average="macro")
    assert found["micro_map"] == pytest.approx(micro, abs=1e-6)
    assert found["macro_map"] == pytest.approx(macro, abs=1e-6)
    assert found["macro_f1"] == pytest.approx(f1, abs=1e-6)
    assert evaluation.per_class(logits, labels, "multi")[4] is None


def test_knowing_label_frequencies_alone_scores_as_scikit_learn_says() -> None:
    random = np.random.default_rng(2)
    frequencies = np.array([0.7, 0.2, 0.1])
    labels = (random.random((300, 3)) < frequencies).astype(np.uint8)
    found = evaluation.label_frequency_scores(frequencies, labels)
    constant = np.tile(frequencies, (300, 1))
    assert found["label_frequency_micro_map"] == pytest.approx(
        sk.average_precision_score(labels, constant, average="micro"), abs=1e-6
    )
    assert found["label_frequency_macro_map"] == pytest.approx(labels.mean(0).mean(), abs=1e-6)


def test_predictions_do_not_depend_on_workers_and_leave_the_model_as_it_was() -> None:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (37, 3, 32, 32), dtype=np.uint8)
    images.flags.writeable = False
    examples = Examples(images, random.integers(0, 4, 37), np.zeros(37, np.int16))
    model = catalogue.build("resnet6", 3, 4, seed=0).train()
    logits = [
        evaluation.predict(
            model,
            examples,
            pixels=PIXELS,
            batch_size=5,
            device=torch.device("cpu"),
            workers=workers,
        )
        for workers in (1, 2, 3)
    ]
    assert model.training
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert logits[0].shape == (37, 4)
    assert not logits[0].requires_grad


def test_macro_f1_has_the_bits_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_f1_score

    random = torch.Generator().manual_seed(5)
    for classes in (2, 10, 43):
        for size in (1, 7, 500):
            # The upper half of the classes never occurs and is seldom predicted.
            targets = torch.randint(0, classes // 2, (size,), generator=random)
            logits = torch.randn(size, classes, generator=random)
            logits[torch.arange(size), targets] += 2
            expected = float(
                multiclass_f1_score(logits.argmax(1), targets, classes, average="macro")
            )
            assert evaluation.metrics(logits, targets.numpy(), "single")["macro_f1"] == expected


def test_label_frequencies_score_the_same_by_counts_as_by_images() -> None:
    random = np.random.default_rng(3)
    frequencies = np.array([0.5, 0.1, 0.3, 0.3, 0.0])
    labels = (random.random((40, 5)) < frequencies[[1, 0, 2, 3, 4]]).astype(np.uint8)
    wanted = evaluation.label_frequency_scores(frequencies, labels)["label_frequency_micro_map"]
    found = evaluation.label_frequency_precision(frequencies, labels.sum(0), 40)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert evaluation.label_frequency_precision(frequencies, np.zeros(5, int), 40) is None


def test_scores_of_images_that_bear_no_label_are_left_out_and_named() -> None:
    blank = np.zeros((6, 3), np.uint8)
    found = evaluation.metrics(torch.zeros(6, 3), blank, "multi")
    assert found == {"loss": pytest.approx(np.log(2))}
    assert evaluation.left_out(found) == ["micro_map", "macro_map", "macro_f1"]
    assert evaluation.per_class(torch.zeros(6, 3), blank, "multi") == [None] * 3
    assert evaluation.label_frequency_scores(np.array([0.5, 0.2, 0.1]), blank) == {}


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_no_image_has_no_score(kind: evaluation.LabelKind) -> None:
    labels = np.zeros((0, 3) if kind == "multi" else 0, np.int64)
    assert evaluation.metrics(torch.empty(0, 3), labels, kind) == {}
    assert evaluation.per_class(torch.empty(0, 3), labels, kind) == [None] * 3


def test_a_score_that_is_no_number_is_left_out() -> None:
    diverged = torch.full((4, 3), float("nan"))
    found = evaluation.metrics(diverged, np.array([0, 1, 2, 0]), "single")
    assert "loss" not in found
    assert evaluation.left_out(found) == ["loss"]


def test_a_class_without_an_image_is_left_out_of_its_average_alone() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [3.0, 0, 0]])
    labels = np.array([0, 1, 1])
    assert evaluation.per_class(logits, labels, "single") == [1.0, 0.5, None]
    found = evaluation.metrics(logits, labels, "single")
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
