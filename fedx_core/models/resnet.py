"""ResNets: torchvision's, and from its blocks ResNet6 of the FedX paper and all other widths.

ResNet6 has a 7 x 7 stem, one basic block of 64 channels, one of 128, and a linear classifier. With
10 bands and 19 classes it has the 338,067 parameters (1.29 MiB) of the paper's Table I.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fedx_core.models import _unet, base
from fedx_core.models.base import Variant
from fedx_core.propagation.explicit import Add, Attention, Replacement
from fedx_core.pruning.shrink.layers import route
from fedx_core.pruning.structure import Stream, UnitGraph

if TYPE_CHECKING:
    from fedx_core.pruning.shrink.model import Shrinking


def _torchvision(name: str) -> Callable[[int, int], nn.Module]:
    def build(bands: int, classes: int) -> nn.Module:
        from torchvision import models

        model: nn.Module = getattr(models, name)(weights=None, num_classes=classes)
        model.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        return model

    return build


class BasicResNet(nn.Module):
    """Basic blocks behind a stem of any width, named as torchvision names a ResNet's.

    Args:
        bands: input channels.
        classes: outputs.
        width: channels of the stem and of the first stage; each later stage has twice as many.
        blocks: of each stage; each but the first halves the maps. ResNet6's by default.
    """

    def __init__(
        self, bands: int, classes: int, width: int = 64, blocks: Sequence[int] = (1, 1)
    ) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        self.conv1 = nn.Conv2d(bands, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self._stages: list[str] = []
        before = wide = width
        for number, count in enumerate(blocks, 1):
            stride, downsample = 1, None
            if number > 1:
                stride, before, wide = 2, wide, 2 * wide
                downsample = nn.Sequential(
                    nn.Conv2d(before, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
                )
            first = BasicBlock(before, wide, stride, downsample)
            stage = nn.Sequential(first, *(BasicBlock(wide, wide) for _ in range(count - 1)))
            self.add_module(f"layer{number}", stage)
            self._stages.append(f"layer{number}")
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map (batch, bands, height, width) to logits (batch, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in self._stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


_GROUPS = (("conv1", "layer1"), ("layer2", "layer3"), ("layer4",))


@dataclass(frozen=True)
class Architecture(base.Architecture):
    """A stem, blocks of convolutions with a skip path each, and a linear classifier."""

    variants: ClassVar[Mapping[str, Variant]] = {
        "resnet6": Variant(
            BasicResNet,
            "fc",
            (("conv1",), ("layer1",), ("layer2",)),
            of_width=lambda width: partial(BasicResNet, width=width),
        ),
        "resnet18": Variant(
            _torchvision("resnet18"),
            "fc",
            _GROUPS,
            of_width=lambda width: partial(BasicResNet, width=width, blocks=(2, 2, 2, 2)),
        ),
        "resnet50": Variant(_torchvision("resnet50"), "fc", _GROUPS),
    }
    inner_rule = "gamma"
    adds_in_place = True

    def streams(self, modules: Mapping[str, nn.Module], *, heads: bool) -> Sequence[Stream]:
        """Follow the residual channels from the stem on, and what is inside each block.

        A block without a convolution in its skip path adds to the channels that it reads; one with
        such a convolution begins new ones, which that convolution is the first to write.
        """
        streams: list[Stream] = []
        writers = ["conv1"]

        def read(*readers: str) -> None:
            """A reader sees those writers of the residual channels that come before it."""
            before = tuple((writer, 0) for writer in writers)
            names = tuple(f"{r}.weight" for r in readers)
            streams.append(Stream(before, names, _channels(modules[writers[0]])))

        for block in _blocks(modules):
            convs = _convolutions(block, modules)
            downsample = f"{block}.downsample.0"
            if downsample in modules:
                read(convs[0], downsample)
                writers = [downsample]
            else:
                read(convs[0])
            for inner, outer in pairwise(convs):
                inside = ((inner, 0),)
                streams.append(Stream(inside, (f"{outer}.weight",), _channels(modules[inner])))
            writers.append(convs[-1])
        read(self.classifier)
        return streams

    def explicit(self, attention: Attention) -> Sequence[Replacement]:
        """Replace the sums at the ends of blocks, and those of a decoder."""
        from torchvision.models.resnet import BasicBlock, Bottleneck

        return [
            (BasicBlock, "forward", _basic_block),
            (Bottleneck, "forward", _bottleneck),
            *_unet.EXPLICIT,
        ]

    def quicken(self, twin: nn.Module, graph: UnitGraph, *, rounding: bool) -> None:
        """Lay the stem out with channels last.

        On a CPU the max pooling behind it, forwards and backwards, and the first convolution then
        take a fraction of the time. Behind it, where maps are small, the usual layout is quicker.
        """
        stem: Any = twin.get_submodule("conv1")
        pool = twin.get_submodule("maxpool")
        if isinstance(pool, nn.MaxPool2d):  # for small images some take it out
            weight = stem.weight.contiguous(memory_format=torch.channels_last)
            stem.weight = nn.Parameter(weight, False)
            vars(pool)["forward"] = lambda x: _BackToUsual.apply(nn.MaxPool2d.forward(pool, x))

    def join(self, shrinking: "Shrinking") -> None:
        """Bring the channels that a plain skip path gets to those that its block gives."""
        for block in _blocks(shrinking.modules):
            if shrinking.modules[block].downsample is None:
                convs = _convolutions(block, shrinking.modules)
                way = route(shrinking.arriving(convs[0]), shrinking.leaving(convs[-1]), 1)
                if not isinstance(way, nn.Identity):
                    shrinking.small.get_submodule(block).downsample = way


def stages(model: nn.Module) -> dict[str, str]:
    """Name what a decoder may read: modules whose maps shrink from one to the next.

    Returns:
        For each of them, the finest first, a weight that reads its channels and no others; nothing
        for a model that is no residual network.
    """
    modules = dict(model.named_modules())
    blocks = _blocks(modules)
    layers = list(dict.fromkeys(name.partition(".")[0] for name in blocks))
    if "maxpool" not in modules or not layers:
        return {}
    readers = [*(f"{layer}.0.conv1.weight" for layer in layers), "fc.weight"]
    return dict(zip(["relu", *layers], readers, strict=True))


def _blocks(modules: Mapping[str, nn.Module]) -> list[str]:
    return [n for n in modules if f"{n}.conv1" in modules and f"{n}.conv2" in modules]


def _convolutions(block: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """Name a block's convolutions in order: two, or three in a bottleneck."""
    return [f"{block}.conv{i}" for i in (1, 2, 3) if f"{block}.conv{i}" in modules]


def _channels(module: nn.Module) -> int:
    assert isinstance(module, nn.Conv2d)
    return module.out_channels


def _basic_block(self: Any, x: Tensor) -> Tensor:
    y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    shortcut = x if self.downsample is None else self.downsample(x)
    total: Tensor = self.relu(Add.apply(shortcut, y))
    return total


def _bottleneck(self: Any, x: Tensor) -> Tensor:
    y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
    shortcut = x if self.downsample is None else self.downsample(x)
    total: Tensor = self.relu(Add.apply(shortcut, self.bn3(self.conv3(y))))
    return total


class _BackToUsual(Function):
    """Lay a map out as usual, and what comes back with channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)
