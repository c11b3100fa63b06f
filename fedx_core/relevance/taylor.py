"""How much the loss would change without a unit, to first order.

Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference,
ICLR 2017, arXiv 1611.06440 (activations); Molchanov et al., Importance Estimation for Neural
Network Pruning, CVPR 2019, arXiv 1906.10771 (weights, a unit's weights as one group).
Differs from the papers: scores are not rescaled layer by layer, which changes nothing within a
layer; the weights' gradient is that of the mean loss over the whole reference set, where the paper
averages over mini-batches, so that the batch size changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph
from fedx_core.relevance import base

Variant = Literal["activation", "weight"]


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Criterion):
    """First-order change of the loss on the reference labels.

    Args:
        variant: ``activation``: activation times gradient averaged over positions, then the
            absolute value, averaged over samples. ``weight``: the square of the sum of weight times
            gradient over the unit's rows.
    """

    variant: Variant = "activation"

    def __post_init__(self) -> None:
        base.check_choice("variant", self.variant, Variant)

    def score(
        self,
        model: nn.Module,
        graph: UnitGraph,
        architecture: Architecture,
        reference: base.Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Differentiate the loss at every unit; nothing is drawn."""
        reference = base.required(reference)
        twin = base.copy_to_explain(model)
        score = _score_weights if self.variant == "weight" else _score_activations
        return score(twin, graph, reference, batch_size)


def _score_activations(
    model: nn.Module, graph: UnitGraph, reference: base.Reference, batch_size: int
) -> Scores:
    with base.recording(model, graph) as recorded:

        def explain(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
            found = changes(model, graph, recorded, images, targets)
            return {name: values.abs() for name, values in found.items()}

        return base.mean_over_samples(model, graph, reference, batch_size, explain)


def changes(
    model: nn.Module,
    graph: UnitGraph,
    recorded: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
) -> dict[str, Tensor]:
    """Multiply activations by the gradient of each image's loss, averaged over positions.

    Args:
        model: a copy to explain.
        graph: names the layers.
        recorded: what ``base.recording`` fills.
        images: float32 (n, bands, height, width).
        targets: their labels.

    Returns:
        (n, units) by layer name.
    """
    loss = summed_loss(model(images.requires_grad_()), targets)
    activations = [recorded[layer.name] for layer in graph.layers]
    gradients = torch.autograd.grad(loss, activations)
    return {
        layer.name: base.by_unit(activation * gradient, layer, "signed")
        / base.positions(activation, layer)
        for layer, activation, gradient in zip(graph.layers, activations, gradients, strict=True)
    }


def _score_weights(
    model: nn.Module, graph: UnitGraph, reference: base.Reference, batch_size: int
) -> Scores:
    products = weight_times_gradient(model, graph, reference, batch_size)
    return {
        layer.name: base.sum_rows(products[layer.name].flatten(1).sum(1), layer).square().float()
        for layer in graph.layers
    }


def weight_times_gradient(
    model: nn.Module, graph: UnitGraph, reference: base.Reference, batch_size: int
) -> dict[str, Tensor]:
    """Multiply each layer's weight by the gradient of the mean loss over the reference set.

    Args:
        model: a copy to explain; its weights take gradients afterwards.
        graph: names the layers.
        reference: images and labels.
        batch_size: images at once; gradients are summed in float64.

    Returns:
        Float64 of the weight's shape by layer name, on the CPU.
    """
    weights = [model.get_parameter(layer.weight).requires_grad_() for layer in graph.layers]
    sums = [torch.zeros_like(weight, dtype=torch.float64, device="cpu") for weight in weights]
    with torch.enable_grad():
        for images, targets in reference.batches(batch_size, model):
            loss = summed_loss(model(images), targets)
            for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total += gradient.cpu().double()
    return {
        layer.name: weight.detach().cpu().double() * total / len(reference)
        for layer, weight, total in zip(graph.layers, weights, sums, strict=True)
    }


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum each sample's loss, so that a sample's gradient does not depend on its batch.

    Returns:
        Cross-entropy for class indices; for (n, classes) binary cross-entropy averaged over the
        classes. A scalar.
    """
    labels = base.positives(logits, targets)
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets, reduction="sum")
    return (
        functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum()
    )
