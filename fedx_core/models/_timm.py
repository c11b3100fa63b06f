"""What the families of timm's models share."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fedx_core.pruning.structure import Stream


def built(name: str) -> Callable[[int, int], nn.Module]:
    """Return the builder of timm's model of that name."""

    def build(bands: int, classes: int) -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(
            name, pretrained=False, in_chans=bands, num_classes=classes
        )
        return model

    return build


def mlp_streams(modules: Mapping[str, nn.Module]) -> list[Stream]:
    """Find what is inside an MLP: ``fc1`` writes it, and ``fc2`` alone reads it."""
    return [
        Stream(((name, 0),), (f"{name.removesuffix('fc1')}fc2.weight",), module.weight.shape[0])
        for name, module in modules.items()
        if name.endswith(".mlp.fc1") and isinstance(module, nn.Conv2d | nn.Linear)
    ]


def activation_rules() -> list[tuple[tuple[type[nn.Module], ...], Any]]:
    """Name LRP's rules for timm's activations, which zennit does not know."""
    from timm.layers.activations import GELU, GELUTanh

    from fedx_core.propagation.rules import Pass

    return [((GELU, GELUTanh), Pass())]
