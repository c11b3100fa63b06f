"""What the objectives share that make two views of an image alike."""

import copy
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base import limits
from fedx_core.images.pixels import Pixels
from fedx_core.objectives import _views, base
from fedx_core.objectives.base import Heads, Seen, Task

WIDEST = 128
"""Of what is compared, unless ``projection`` says another width."""


@dataclass(frozen=True, kw_only=True)
class TwoViews(base.Objective):
    """Two views of each image, and a projector behind the features.

    Args:
        projection: width of what is compared; 0 takes that of the features, 128 at most.
        heads: ``shared`` heads travel and are averaged with the encoder; ``local`` ones stay with
            their client.
    """

    least_batch: ClassVar[int] = 8
    least_side: ClassVar[int] = 8
    reads: ClassVar[tuple[str, ...]] = ("projector.0.weight",)
    compares: ClassVar[bool] = True

    projection: int = 0
    heads: Heads = "shared"

    def __post_init__(self) -> None:
        limits.at_least(0, projection=self.projection)
        limits.one_of(get_args(Heads), heads=self.heads)

    def build(self, model: nn.Module, classifier: str) -> nn.Module:
        """Put a projector in the classifier's place: D to D to at most 128."""
        width = base.headless(model, classifier)
        model.projector = mlp(width, width, self.projection or min(width, WIDEST))
        return model

    def local(self, network: nn.Module) -> frozenset[str]:
        """Name the heads, where they are local."""
        heads = ("projector", "predictor") if self.heads == "local" else ()
        return base.entries_of(network, *heads)

    def views(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor | None,
        task: Task,
        random: np.random.Generator,
    ) -> Seen:
        """Draw both views alike and independently."""
        return Seen(
            tuple(
                _views.tinted(_views.placed(inputs, random), task.pixels, random) for _ in range(2)
            ),
            targets,
        )

    def compared(
        self,
        network: nn.Module,
        classifier: str,
        inputs: Tensor,
        pixels: Pixels,
        random: np.random.Generator,
    ) -> tuple[nn.Module, Tensor]:
        """Put the projector, and second views' projections as rows, where the classifier was."""
        first, second = (
            _views.tinted(_views.placed(inputs, random), pixels, random) for _ in range(2)
        )
        twin = copy.deepcopy(network).requires_grad_(False).eval()
        with torch.no_grad():
            lengths = project(twin, first).norm(dim=1, keepdim=True)
            rows = unit(project(twin, second)) / lengths.clamp(min=1e-12)
        answers = linear(rows.shape[1], len(rows), bias=False)
        answers.weight.copy_(rows)
        inner, norm, relu, outer = twin.get_submodule("projector").children()
        parent, _, leaf = classifier.rpartition(".")
        head = nn.Sequential(folded(inner, norm), relu, outer, answers)
        setattr(twin.get_submodule(parent), leaf, head)
        for name in ("projector", "predictor"):
            if hasattr(twin, name):
                delattr(twin, name)
        return twin.eval(), first

    def vectors(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Compare by what the projector returns."""
        return project(network, inputs)

    def vectors_seen(
        self, network: nn.Module, seen: Seen, outputs: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compare both views."""
        return tuple((project(network, view), view) for view in seen.views)

    def embedded(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return what is compared, (n, projection)."""
        return project(network, inputs)


def folded(layer: nn.Module, norm: nn.Module) -> nn.Linear:
    """Return one linear layer in place of a linear layer and the BatchNorm behind it, in eval mode.

    LRP then has one layer to pass, and values are the same but for rounding.
    """
    assert isinstance(layer, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    found = linear(layer.in_features, layer.out_features)
    found.weight.copy_(layer.weight * scale[:, None])
    found.bias.copy_((layer.bias - norm.running_mean) * scale + norm.bias)
    return found


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a frozen linear layer without values: none are drawn from the global generator."""
    found = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    assert isinstance(found, nn.Linear)
    return found.requires_grad_(False)


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Return two linear layers with BatchNorm and ReLU between them."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


def project(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return what the projector makes of the features."""
    found: Tensor = network.get_submodule("projector")(network(inputs))
    return found


def projected(network: nn.Module) -> int:
    """Return the width of what the projector returns."""
    *_, last = network.get_submodule("projector").parameters()  # its bias
    return len(last)


def unit(vectors: Tensor) -> Tensor:
    """Bring vectors (n, width) to length one, in float32."""
    return functional.normalize(vectors.float(), dim=1)


def frozen_copy(network: nn.Module, *without: str) -> nn.Module:
    """Copy a network to be followed, in train mode, without some of its heads."""
    twin = copy.deepcopy(network).requires_grad_(False).train()
    for head in without:
        delattr(twin, head)
    return twin
