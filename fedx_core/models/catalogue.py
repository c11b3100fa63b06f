"""The models: one entry each, all that the rest of FedX needs to know of them.

To add one, write its builder (or name torchvision's or timm's) and add an entry; the contract tests
pick it up. ``family`` says whose naming of layers it follows, for units and for LRP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fedx_core import tensor_file
from fedx_core.errors import PayloadError, SchemaError, UnknownNameError
from fedx_core.nearest import hint
from fedx_core.state import require_finite


@dataclass(frozen=True)
class Entry:
    """What is known of a model before it is built.

    Args:
        build: (bands, classes) to a module with freshly drawn weights.
        family: ``resnet``, ``convnext`` or ``vit``.
        classifier: name of the last linear layer.
        lrp_groups: prefixes of the low, middle and high hidden layers (methods after Hatefi et al.
            2024; the classifier is the fourth group).
        input_size: side in pixels that images are resized to; None takes any size.
    """

    build: Callable[[int, int], nn.Module]
    family: str
    classifier: str
    lrp_groups: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    input_size: int | None = None


def _torchvision(name: str) -> Callable[[int, int], nn.Module]:
    def build(bands: int, classes: int) -> nn.Module:
        from torchvision import models

        model: nn.Module = getattr(models, name)(weights=None, num_classes=classes)
        model.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        return model

    return build


def _timm(name: str) -> Callable[[int, int], nn.Module]:
    def build(bands: int, classes: int) -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(
            name, pretrained=False, in_chans=bands, num_classes=classes
        )
        return model

    return build


def _resnet6(bands: int, classes: int) -> nn.Module:
    from fedx_core.models.resnet6 import ResNet6

    return ResNet6(bands, classes)


_RESNET_GROUPS = (("conv1", "layer1"), ("layer2", "layer3"), ("layer4",))
_CONVNEXT_GROUPS = (("stem", "stages.0"), ("stages.1", "stages.2"), ("stages.3",))
_VIT_GROUPS = (
    ("patch_embed", *(f"blocks.{i}." for i in range(3))),
    tuple(f"blocks.{i}." for i in range(3, 9)),
    tuple(f"blocks.{i}." for i in range(9, 12)),
)

CATALOGUE: dict[str, Entry] = {
    "resnet6": Entry(_resnet6, "resnet", "fc", (("conv1",), ("layer1",), ("layer2",))),
    "resnet18": Entry(_torchvision("resnet18"), "resnet", "fc", _RESNET_GROUPS),
    "resnet50": Entry(_torchvision("resnet50"), "resnet", "fc", _RESNET_GROUPS),
    "convnextv2_atto": Entry(_timm("convnextv2_atto"), "convnext", "head.fc", _CONVNEXT_GROUPS),
    "convnextv2_nano": Entry(_timm("convnextv2_nano"), "convnext", "head.fc", _CONVNEXT_GROUPS),
    "vit_base_patch16_224": Entry(
        _timm("vit_base_patch16_224"), "vit", "head", _VIT_GROUPS, input_size=224
    ),
}


def names() -> list[str]:
    """List the models in the paper's order."""
    return list(CATALOGUE)


def entry(name: str) -> Entry:
    """Look a model up.

    Raises:
        UnknownNameError: the catalogue has no such model; names the nearest.
    """
    if name not in CATALOGUE:
        raise UnknownNameError(
            f"no model {name!r}; {hint(name, CATALOGUE)}choose one of "
            f"{', '.join(CATALOGUE)}, or add an entry to fedx_core/models/catalogue.py"
        )
    return CATALOGUE[name]


def build(name: str, bands: int, classes: int, seed: int) -> nn.Module:
    """Build a model whose weights depend on ``seed`` alone; torch's global generator is restored.

    Args:
        name: a key of the catalogue.
        bands: input channels.
        classes: outputs.
        seed: of the initial weights.
    """
    found = entry(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return found.build(bands, classes)


def load_weights(model: nn.Module, path: Path) -> None:
    """Start from a user's safetensors file with the model's own names and shapes.

    Raises:
        SchemaError: there is no such file, or its entries do not fit.
        PayloadError: it is not safetensors, or damaged.
        NonFiniteError: it holds NaN or infinity.
    """
    try:
        state = tensor_file.load_file(path, model.state_dict())
    except FileNotFoundError as error:
        raise SchemaError(f"no weights at {path}; model.weights names a .safetensors file") from (
            error
        )
    except OSError as error:
        raise SchemaError(f"{path} can't be read: {error.strerror}") from error
    except SchemaError as error:
        raise SchemaError(f"{path} does not fit the model: {error}") from error
    except PayloadError as error:
        if tensor_file.is_pickle(path):
            raise type(error)(tensor_file.foreign(path)) from error
        raise type(error)(f"{path} is not a safetensors file: {error}") from error
    require_finite(state, str(path))
    model.load_state_dict(state)
