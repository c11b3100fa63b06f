"""All models of all families, by name; adding a family is adding a file beside this one."""

from collections.abc import Container, Mapping
from pathlib import Path

from torch import Tensor, nn

from fedx_core.base import plugins, seeding, tensor_file
from fedx_core.base.errors import PayloadError, SchemaError, UnknownNameError
from fedx_core.base.nearest import hint
from fedx_core.base.state import require_finite
from fedx_core.models.base import Architecture

NARROWEST = 8
"""Channels; below, oneDNN's convolutions on processors with AVX2 write beyond their memory."""


def names() -> list[str]:
    """List the models, family by family."""
    return list(_families())


def entry(name: str) -> Architecture:
    """Look a model up.

    Args:
        name: of a model of some family; for another width than its own with ``_w`` and the channels
            of the stem behind it, as in ``resnet6_w24``, where the family allows of it.

    Raises:
        UnknownNameError: no family has such a model; names the nearest.
    """
    families = _families()
    model, _, width = name.rpartition("_w")
    if model in families and width.isdecimal():
        return _of_width(families[model], model, int(width))
    if name not in families:
        raise UnknownNameError(
            f"no model {name!r}; {hint(name, families)}choose one of {', '.join(families)}, or add "
            "it to the variants of its family in fedx_core/models"
        )
    return families[name](name)


def build(name: str, bands: int, classes: int, seed: int) -> nn.Module:
    """Build a model whose weights depend on ``seed`` alone; torch's global generator is restored.

    Args:
        name: of a model of some family.
        bands: input channels.
        classes: outputs.
        seed: of the initial weights.
    """
    found = entry(name)
    with seeding.initial_weights(seed):
        return found.build(bands, classes)


def load_weights(model: nn.Module, path: Path, heads: Container[str] = ()) -> None:
    """Start from a user's safetensors file with the model's own names and shapes.

    Args:
        model: changed in place.
        path: of the file.
        heads: entries of the model, such as its classifier, that may start as they are where the
            file has none of them; then what else the file holds, such as a projector, is left out.

    Raises:
        SchemaError: there is no such file, or its entries do not fit.
        PayloadError: it is not safetensors, or damaged.
        NonFiniteError: it holds NaN or infinity.
    """
    try:
        state = tensor_file.load_file(path, _wanted(model, path, heads))
    except FileNotFoundError as error:
        raise SchemaError(
            f"no weights at {path}; name a .safetensors file in model.weights, or leave it empty"
        ) from (error)
    except OSError as error:
        raise SchemaError(
            f"{path} can't be read: {error.strerror}; see to its permissions"
        ) from error
    except SchemaError as error:
        raise SchemaError(
            f"{path} does not fit the model: {error}; choose the model.name that it was made from"
        ) from error
    except PayloadError as error:
        if tensor_file.is_pickle(path):
            raise type(error)(tensor_file.foreign(path)) from error
        raise type(error)(f"{path} is not a safetensors file: {error}") from error
    require_finite(state, str(path))
    own = model.state_dict()
    model.load_state_dict(own | {name: state[name] for name in own.keys() & state.keys()})


def _wanted(model: nn.Module, path: Path, heads: Container[str]) -> Mapping[str, Tensor]:
    """Say what a file has to hold: the model; or its encoder, with whatever heads."""
    own, theirs = model.state_dict(), tensor_file.header_of(path).layout
    encoder = {name for name in own if name not in heads}
    if len(encoder) == len(own) or not encoder <= theirs.keys():
        return own
    return {name: own.get(name, value) for name, value in theirs.items()}


def _of_width(family: type[Architecture], model: str, width: int) -> Architecture:
    if family.variants[model].of_width is None:
        wide = [n for n, f in _families().items() if f.variants[n].of_width is not None]
        raise UnknownNameError(
            f"{model} has one width; leave _w{width} out, or choose {', '.join(wide)}"
        )
    if width < NARROWEST:
        raise UnknownNameError(
            f"a width is {NARROWEST} or more, got {model}_w{width}; choose {model}_w{NARROWEST}"
        )
    return family(model, width)


def _families() -> dict[str, type[Architecture]]:
    """Tell which family each model is of."""
    found = [plugins.load("models", family) for family in plugins.names("models")]
    return {name: family for family in found for name in family.variants}
