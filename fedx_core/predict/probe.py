"""What an encoder is worth: frozen features for a probe and for neighbours, and few labels.

Each score stands beside that of an encoder of the same architecture whose weights are drawn at
random, since convolutions that have learned nothing tell images apart already.

BatchNorm's statistics of both are measured anew on the training images, so that a frozen encoder is
not judged by how another data set is lit.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedx_core.base import limits, seeding
from fedx_core.base.config import Schedule, TrainingConfig
from fedx_core.base.errors import DataError, SchemaError
from fedx_core.images.examples import Description, Examples
from fedx_core.images.set_folder import Prepared
from fedx_core.learning import evaluation, fine_tuning, linear, neighbours, training
from fedx_core.models import catalogue
from fedx_core.objectives.base import headless
from fedx_core.predict.model_file import Card

Who = Literal["run", "random"]
MEASURED = 512
"""Training images, the first ones, on which BatchNorm's statistics are measured."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an encoder is probed.

    Args:
        shares: of the training images whose labels are known, each in (0, 1).
        draws: of each share.
        epochs: of fine-tuning; 0 fits linear probes alone.
    """

    shares: tuple[float, ...] = (0.01, 0.1)
    draws: int = 3
    epochs: int = 100

    def __post_init__(self) -> None:
        for share in self.shares:
            limits.within("(0, 1)", shares=share)
        limits.at_least(1, draws=self.draws)
        limits.at_least(0, epochs=self.epochs)

    @property
    def steps(self) -> int:
        """How many scores :func:`probed` yields."""
        few = len(self.shares) * self.draws * (2 if self.epochs else 1)
        return 2 * (2 + few)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score.

    Args:
        encoder: the run's, or a random one.
        measure: ``knn``, ``linear`` or ``fine_tuned``.
        share: of the training labels that were known.
        draw: of those, from 0.
        labelled: images that this is.
        penalty: of the linear probe, chosen on the tuning part; None where there is none.
        metrics: on the test part.
    """

    encoder: Who
    measure: Literal["knn", "linear", "fine_tuned"]
    share: float
    draw: int
    labelled: int
    penalty: float | None
    metrics: Mapping[str, float]


def check(card: Card, description: Description, name: str) -> None:
    """Refuse a data set that an encoder can't read.

    Args:
        card: of the encoder's run.
        description: of the data set.
        name: its key in the settings.

    Raises:
        DataError: it has other bands, pixels that mean something else, or no labels.
    """
    if description.bands != card.bands:
        raise DataError(
            f"{name} has the bands {', '.join(description.bands)}, and the encoder of run "
            f"{card.run!r} reads {', '.join(card.bands)}; choose another --dataset, or prepare "
            f"this one with the same bands in the same order (datasets.{name}.source)"
        )
    unit, wanted = _unit(description.scale, description.value_range), _unit(
        card.pixels.scale, card.value_range
    )  # fmt: skip
    if unit != wanted:
        raise DataError(
            f"pixels of {name} are {unit}, and the encoder of run {card.run!r} reads {wanted}; "
            f"choose another --dataset, or prepare this one likewise (datasets.{name}.source)"
        )
    if len(description.class_names) < 2:
        raise DataError(
            f"{name} has no labels to probe with; name a data set that has, with --dataset"
        )
    if description.label_kind == "pixels":
        raise DataError(
            f"{name} has a class for each pixel, and a probe judges an encoder by labels of whole "
            "images; name a data set that has those, with --dataset, or start a run of the "
            "objective segmentation from the encoder (model.weights)"
        )


def encoder_of(weights: Mapping[str, Tensor], card: Card) -> nn.Module:
    """Build a run's encoder: its model without the classifier or heads, in evaluation mode.

    Raises:
        SchemaError: the weights are not of the model that the card names.
    """
    encoder = _built(card, seed=0)
    own = encoder.state_dict()
    lacking = [
        name for name in own if name not in weights or weights[name].shape != own[name].shape
    ]
    if lacking:
        raise SchemaError(
            f"the model of run {card.run!r} lacks {lacking[0]} of a {card.model}; probe the run "
            "with the version of FedX that wrote it"
        )
    encoder.load_state_dict({name: weights[name] for name in own})
    return encoder.eval()


def probed(
    encoder: nn.Module,
    card: Card,
    prepared: Prepared,
    settings: Settings,
    how: TrainingConfig,
    workers: int = 1,
) -> Iterator[Score]:
    """Yield all scores of an encoder, and those of a random one.

    Labels of the training part are learned, the validation part chooses, the test part judges.

    Args:
        encoder: of :func:`encoder_of`; stays as it is.
        card: of the encoder's run; all draws follow from its seed.
        prepared: a data set that passed :func:`check`.
        settings: what is asked for.
        how: batch sizes, device and threads.
        workers: threads that run the frozen encoder; they change no result.

    Raises:
        DataError: a part has no image.
    """
    for part in ("train", "validation", "test"):
        if not len(prepared.parts[part]):
            raise DataError(
                f"{prepared.description.name} has no {part} images, and a probe needs some of each "
                "part; prepare it with more"
            )
    others: tuple[tuple[Who, nn.Module], ...] = (
        ("run", encoder),
        ("random", _built(card, seed=seeding.derive(card.seed, "probe", "random"))),
    )
    for who, module in others:
        measured = _measured(module, prepared.parts["train"], card, how)
        yield from _scores(who, measured, card, prepared, settings, how, workers)


def _scores(
    who: Who,
    encoder: nn.Module,
    card: Card,
    prepared: Prepared,
    settings: Settings,
    how: TrainingConfig,
    workers: int,
) -> Iterator[Score]:
    kind, classes = prepared.description.label_kind, len(prepared.description.class_names)
    train, tuning, test = (prepared.parts[part] for part in ("train", "validation", "test"))
    device = training.pick_device(how.device)

    def ran(network: nn.Module, examples: Examples) -> Tensor:
        return evaluation.predict(
            network, examples, pixels=card.pixels, batch_size=how.eval_batch_size, device=device,
            workers=workers,
        )  # fmt: skip

    def judged(
        measure: Literal["knn", "linear", "fine_tuned"],
        logits: Tensor,
        penalty: float | None = None,
        share: float = 1.0,
        draw: int = 0,
        labelled: int = len(train),
    ) -> Score:
        found = evaluation.metrics(logits, test.labels, kind)
        return Score(
            encoder=who, measure=measure, share=share, draw=draw, labelled=labelled,
            penalty=penalty, metrics=found,
        )  # fmt: skip

    known, chooses, asked = (ran(encoder, part) for part in (train, tuning, test))
    votes = neighbours.votes(known, train.labels, asked, classes)
    yield judged("knn", neighbours.logits(votes, single=kind == "single"))
    found = linear.chosen(known, np.asarray(train.labels), (chooses, tuning.labels), classes)
    yield judged("linear", found.logits(asked), found.penalty)
    tuned = replace(
        how, epochs=max(settings.epochs, 1), flips=True, label_smoothing=0.0, class_weights="none",
        round_schedule=Schedule(),
    )  # fmt: skip
    for share in settings.shares:
        for draw in range(settings.draws):
            seed = seeding.derive(card.seed, "probe", str(share), draw)
            rows = fine_tuning.drawn(np.asarray(train.labels), share, seed)
            few = Examples(train.images[rows], train.labels[rows], train.groups[rows])
            found = linear.chosen(
                known[torch.from_numpy(rows)], few.labels, (chooses, tuning.labels), classes
            )
            yield judged("linear", found.logits(asked), found.penalty, share, draw, len(few))
            if settings.epochs:
                network = fine_tuning.fine_tuned(
                    encoder, found, few, tuning, label_kind=kind, pixels=card.pixels,
                    settings=tuned, seed=seeding.derive(seed, "order"), workers=workers,
                )  # fmt: skip
                yield judged("fine_tuned", ran(network, test), None, share, draw, len(few))


def _built(card: Card, seed: int) -> nn.Module:
    model = catalogue.build(card.model, len(card.bands), 2, seed)
    headless(model, catalogue.entry(card.model).classifier)
    return model.eval()


def _measured(encoder: nn.Module, train: Examples, card: Card, how: TrainingConfig) -> nn.Module:
    """Return a copy whose BatchNorm has the statistics of the first training images."""
    found = copy.deepcopy(encoder)
    norms = [m for m in found.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    images = np.asarray(train.images[:MEASURED])
    if not norms or len(images) < 2:
        return found
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # take the batch's own, and mix in nothing
    device, threads = training.pick_device(how.device), torch.get_num_threads()
    torch.set_num_threads(how.threads)
    with torch.no_grad():
        found.to(device).train()(card.pixels.to_input(images, device))
    torch.set_num_threads(threads)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return found.to("cpu").eval()


def _unit(scale: float, value_range: tuple[float, ...]) -> str:
    least, most = value_range or (0.0, 1.0)
    return f"0 to {scale:g} for {least:g} to {most:g}"
