"""A model's file: safetensors with, in its metadata, all that is needed to use it elsewhere.

The metadata's one key ``fedx`` holds a :class:`Card` as JSON: what the model is called in the
catalogue, which bands it reads and how, and what its outputs mean. Weights are dense, those of
pruned units zero, under the model's own names, so that any reader of safetensors can take them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import fedx_core
from fedx_core.base import seeding, state, tensor_file
from fedx_core.base.errors import PayloadError, RunError, SchemaError, VersionError
from fedx_core.base.frozen_json import parse, plain
from fedx_core.base.state import StateDict
from fedx_core.clients.plan import read_plan
from fedx_core.images.examples import Description
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels
from fedx_core.models import catalogue
from fedx_core.objectives import segmentation
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model's file says of itself.

    Args:
        format: of this card.
        version: of FedX that wrote it.
        run: that trained the model.
        seed: of that run.
        round_index: after which the model was taken.
        dataset: that it was trained on, for people.
        model: name in the catalogue.
        bands: names in the images' order.
        class_names: in the outputs' order.
        label_kind: softmax or sigmoid on the outputs; for pixels, softmax on each one's.
        image_size: side of the training images in pixels.
        pixels: how images become inputs.
        units_kept: (kept, all) by layer; the others' weights are zero.
        value_range: values that pixels of 0 and of ``pixels.scale`` stand for; empty is (0, 1).
    """

    format: int
    version: str
    run: str
    seed: int
    round_index: int
    dataset: str
    model: str
    bands: tuple[str, ...]
    class_names: tuple[str, ...]
    label_kind: LabelKind
    image_size: int
    pixels: Pixels
    units_kept: Mapping[str, tuple[int, int]]
    value_range: tuple[float, ...] = ()


def card_of(journal: Journal, description: Description, round_index: int) -> Card:
    """Describe a run's model after a round.

    Args:
        journal: of the run.
        description: of the data set that it was trained on.
        round_index: a committed round.

    Raises:
        RunError: that round is not committed.
    """
    run, first, last = journal.run(), journal.committed(0), journal.committed(round_index)
    if run is None or first is None or last is None:
        raise RunError(f"no committed round {round_index} in this run; start it with `fedx run`")
    plan = read_plan(journal.store.get(first.plan))
    return Card(
        format=FORMAT,
        version=fedx_core.__version__,
        run=run.name,
        seed=run.config["seed"],
        round_index=round_index,
        dataset=description.name,
        model=plan.model,
        bands=description.bands,
        class_names=description.class_names,
        label_kind=plan.label_kind,
        image_size=description.image_size,
        pixels=plan.pixels,
        units_kept=last.report.units_kept,
        value_range=description.value_range,
    )


def pack(model: StateDict, card: Card) -> bytes:
    """Encode a model with its card; equal values give equal bytes."""
    return checkpoint.pack_state(model, plain(card))


def read(path: Path) -> tuple[nn.Module, Card]:
    """Read a model's file and build the model.

    Returns:
        The model in evaluation mode, on the CPU, and its card.

    Raises:
        PayloadError: there is no such file, it is damaged, or it does not say how to use it.
        VersionError: a later version wrote it.
        SchemaError: its weights are not those of the model that it names.
    """
    card = _card_in(path)
    model = catalogue.build(card.model, len(card.bands), len(card.class_names), seed=0)
    if card.label_kind == "pixels":
        model = _with_decoder(model, card, path)
    try:
        weights = tensor_file.load_file(path, model.state_dict())
    except SchemaError as error:
        classifier = f"{catalogue.entry(card.model).classifier}.weight"
        if classifier not in tensor_file.header_of(path).layout:
            raise SchemaError(
                f"{path} holds an encoder that learned without labels, which names no classes; "
                f"start a run that learns them from it with --set model.weights={path}"
            ) from error
        raise SchemaError(f"{path} does not hold a {card.model}, as it says: {error}") from error
    state.require_finite(weights, str(path))
    model.load_state_dict(weights)
    return model.eval(), card


def _with_decoder(model: nn.Module, card: Card, path: Path) -> nn.Module:
    """Put a decoder as wide as the file's on a model."""
    classifier = catalogue.entry(card.model).classifier
    last = tensor_file.header_of(path).layout.get(f"{classifier}.weight")
    if last is None or last.ndim != 4:
        raise SchemaError(f"{path} says a class for each pixel, and holds no decoder that does")
    with seeding.initial_weights(0):
        return segmentation.Objective(width=last.shape[1]).build(model, classifier)


def read_weights(path: Path) -> tuple[StateDict, Card]:
    """Read a model's file as it is: all of a model, or an encoder with whatever heads.

    Raises:
        PayloadError: as :func:`read`.
        VersionError: likewise.
        NonFiniteError: it holds NaN or infinity.
    """
    card = _card_in(path)
    weights = tensor_file.load_file(path, tensor_file.header_of(path).layout)
    state.require_finite(weights, str(path))
    return weights, card


def _card_in(path: Path) -> Card:
    try:
        about = checkpoint.about_of(tensor_file.header_of(path).metadata)
    except OSError as error:
        raise PayloadError(
            f"{path} can't be read: {error.strerror or error}; name a run or a .safetensors file"
        ) from error
    except PayloadError as error:
        if tensor_file.is_pickle(path):
            raise type(error)(tensor_file.foreign(path)) from error
        raise type(error)(f"{path} is no whole safetensors file ({error})") from error
    return _card(path, about)


def _card(path: Path, about: Mapping[str, object]) -> Card:
    if "format" not in about:
        raise PayloadError(
            f"{path} does not say which model it holds and how images are read: it is from "
            "elsewhere or from an early version. `fedx resume RUN` writes a finished run's anew; "
            "to use weights from elsewhere, start a run from them with --set model.weights=FILE"
        )
    if about["format"] != FORMAT:
        raise VersionError(
            f"{path} has format {about['format']!r}, written by FedX {about.get('version')}; this "
            f"is {fedx_core.__version__} and reads {FORMAT}. Install that version"
        )
    try:
        return parse(Card, about)
    except PayloadError as error:
        raise PayloadError(
            f"{path} has a damaged description: {error}; `fedx resume RUN` writes the file of a "
            "finished run anew"
        ) from error
