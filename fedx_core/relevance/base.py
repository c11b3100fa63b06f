"""What a criterion is, and what the criteria share: reference set, recording, aggregation.

A criterion gives every unit one score; the higher, the more the unit is worth keeping. It works on
a copy of the model, so explaining changes nothing, whatever happens on the way.
"""

import abc
import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fedx_core.base.errors import ConfigError, ReferenceSetError
from fedx_core.models.base import Architecture
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph, UnitLayer

Aggregation = Literal["signed", "abs_of_spatial_sum", "abs_elementwise"]
"""How values at all positions become one value per unit and sample.

    signed              sum over positions (the letter of FedX eq. 5)
    abs_of_spatial_sum  maps: absolute value of the sum over space; tokens: absolute value a token,
                        then their sum (the code of Hatefi et al. 2024, from which FedX descends)
    abs_elementwise     sum over positions of absolute values (Yeom et al. 2021 for ResNets)

Samples are averaged afterwards (eq. 5).
"""


@dataclass(frozen=True)
class Reference:
    """The server's reference set, ready for the model.

    Args:
        images: float32 (n, bands, height, width), normalised as in training.
        targets: int64 (n,) class indices, or float or uint8 (n, classes) of 0 and 1.

    Raises:
        ReferenceSetError: empty, of unequal lengths, of other shapes, or not finite.
    """

    images: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ReferenceSetError(
                "the reference set is empty; raise reference.per_class or give another source"
            )
        if self.images.ndim != 4 or self.targets.ndim not in (1, 2):
            raise ReferenceSetError(
                f"reference images are {tuple(self.images.shape)} and targets "
                f"{tuple(self.targets.shape)}; wanted (n, bands, height, width) and (n,) or "
                "(n, classes); draw them from the prepared data set"
            )
        if len(self.images) != len(self.targets):
            raise ReferenceSetError(
                f"{len(self.images)} reference images with {len(self.targets)} targets; "
                "each image needs one: prepare the data set again"
            )
        bad = ~torch.isfinite(self.images).flatten(1).all(1)
        if bad.any():
            raise ReferenceSetError(
                f"{int(bad.sum())} of {len(bad)} reference images hold NaN or infinity, the first "
                f"is number {int(bad.nonzero()[0])}; look at its pixels and at the normalisation"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels."""
        return self.targets.ndim == 2

    def batches(self, batch_size: int, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and targets in order, on the model's device and in its precision."""
        like = next(model.parameters())
        for start in range(0, len(self), batch_size):
            images = self.images[start : start + batch_size]
            targets = self.targets[start : start + batch_size].to(like.device)
            yield images.to(like), targets


class Criterion(abc.ABC):
    """The interface of ``relevance/<name>.py``, whose class ``Criterion`` is a frozen dataclass."""

    needs_reference: ClassVar[bool] = True
    """Whether ``score`` looks at the reference set; where not, it may be None."""

    def check(self, graph: UnitGraph) -> None:  # noqa: B027  a hook
        """Refuse a model whose units can't be scored, before a run begins; none by default.

        Raises:
            ConfigError: the criterion wants something that the model lacks.
        """

    @abc.abstractmethod
    def score(
        self,
        model: nn.Module,
        graph: UnitGraph,
        architecture: Architecture,
        reference: Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Score every unit.

        Args:
            model: what is explained; stays bit for bit as it is, and in its mode.
            graph: the model's units.
            architecture: of the model.
            reference: images to explain; None only where ``needs_reference`` is False.
            seed: of whatever is drawn.
            batch_size: images at once; changes nothing but rounding, memory and time.

        Returns:
            float32 (units,) on the CPU for each layer of ``graph``, in its order.

        Raises:
            ReferenceSetError: the reference set is missing or does not fit the model.
        """


class Weighing(Criterion):
    """A criterion that scores single weights too."""

    @abc.abstractmethod
    def weigh(
        self,
        model: nn.Module,
        graph: UnitGraph,
        architecture: Architecture,
        reference: Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Score every single weight of the units' layers; arguments are those of :meth:`score`.

        Returns:
            float32 of the weight's shape on the CPU, by its name in the state dict.

        Raises:
            ReferenceSetError: as :meth:`score`.
        """


def required(reference: Reference | None) -> Reference:
    """Return the reference set, or say that it is missing.

    Raises:
        ReferenceSetError: it is None.
    """
    if reference is None:
        raise ReferenceSetError(
            "this criterion explains images, and was given no reference set; set "
            "reference.per_class to 1 or more"
        )
    return reference


def check_choice(name: str, value: str, choices: Any) -> None:
    """Check a setting against the ``Literal`` that lists its values.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in get_args(choices):
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")


def copy_to_explain(model: nn.Module) -> nn.Module:
    """Copy a model, in eval mode, frozen, and without in-place activations.

    In-place activations would overwrite the values that are recorded before them. The copy has
    parameters and buffers of its own that share the model's memory, so it costs next to nothing:
    what changes them has to replace them and must not write into them.
    """
    shared: dict[int, Any] = {}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        shared[id(buffer)] = buffer.detach()
    twin = copy.deepcopy(model, shared).eval()
    for module in twin.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment] # torch types any attribute as Module
    return twin


@contextmanager
def recording(model: nn.Module, graph: UnitGraph) -> Iterator[dict[str, Tensor]]:
    """Keep the activations of the last forward pass at the units' measuring points.

    Yields:
        A dict that each forward pass fills: layer name to activation, part of the autograd graph.
    """
    recorded: dict[str, Tensor] = {}

    def keep_input(name: str) -> Callable[..., None]:
        return lambda module, inputs: recorded.__setitem__(name, inputs[0])

    def keep_output(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            recorded[name] = output
            # torchvision's blocks add the skip path in place, which would change what is kept.
            return output.clone()

        return hook

    handles = []
    try:
        for layer in graph.layers:
            module = model.get_submodule(layer.measured_at)
            handles.append(
                module.register_forward_pre_hook(keep_input(layer.name))
                if layer.measured_input
                else module.register_forward_hook(keep_output(layer.name))
            )
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def positives(logits: Tensor, targets: Tensor) -> Tensor:
    """Mark the labels of each image: (n, classes) of 0 and 1 in the logits' dtype.

    Raises:
        ReferenceSetError: a label is not among the model's classes.
    """
    classes = logits.shape[1]
    if targets.ndim == 2:
        if targets.shape[1] != classes:
            raise ReferenceSetError(
                f"reference labels have {targets.shape[1]} classes, the model has {classes}; "
                "draw the reference set from the data set that the model is trained on"
            )
        return targets.to(logits)
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise ReferenceSetError(
            f"reference labels run from {int(targets.min())} to {int(targets.max())}, the model "
            f"has classes 0 to {classes - 1}; draw the reference set from the data set that the "
            "model is trained on"
        )
    return torch.zeros_like(logits).scatter_(1, targets.long().unsqueeze(1), 1.0)


def by_unit(values: Tensor, layer: UnitLayer, aggregation: Aggregation) -> Tensor:
    """Sum values at a measuring point to one value a sample and unit.

    Args:
        values: (n, channels, height, width), (n, height, width, channels), (n, tokens, channels)
            or (n, channels). The channels of an attention head are summed first.
        layer: whose measuring point it is.
        aggregation: see :data:`Aggregation`.

    Returns:
        (n, units).
    """
    return sum_magnitudes(sum_signed(values, layer, aggregation), layer, aggregation)


def sum_signed(values: Tensor, layer: UnitLayer, aggregation: Aggregation) -> Tensor:
    """Do the first half of :func:`by_unit`: what is summed before absolute values are taken.

    Being linear, it may be done part by part where ``values`` is a sum of parts.

    Returns:
        (n, ..., units), or (n, ..., channels) where nothing is summed; smaller than ``values``
        wherever the aggregation allows.
    """
    values = values.movedim(layer.unit_dim, -1)
    if aggregation == "abs_elementwise":
        return values
    values = _sum_channels(values, layer)
    if aggregation == "abs_of_spatial_sum" and values.ndim == 3:
        return values
    return _sum_positions(values)


def sum_magnitudes(values: Tensor, layer: UnitLayer, aggregation: Aggregation) -> Tensor:
    """Do the second half of :func:`by_unit`, (n, ..., units or channels) to (n, units)."""
    if aggregation != "signed":
        values = values.abs()
    return _sum_positions(_sum_channels(values, layer))


def _sum_channels(values: Tensor, layer: UnitLayer) -> Tensor:
    """Sum the channels of each unit, (n, ..., channels) to (n, ..., units)."""
    if values.shape[-1] == layer.units:
        return values
    return values.reshape(*values.shape[:-1], layer.units, -1).sum(-1)


def _sum_positions(values: Tensor) -> Tensor:
    """Sum what is between samples and units, (n, ..., units) to (n, units)."""
    between = tuple(range(1, values.ndim - 1))
    return values.sum(between) if between else values


def positions(values: Tensor, layer: UnitLayer) -> int:
    """Count the values that one unit has in one sample: pixels or tokens, times a head's width."""
    return values[0].numel() // layer.units


def sum_rows(rows: Tensor, layer: UnitLayer) -> Tensor:
    """Sum one value per weight row to one per unit; rows are units except in attention heads."""
    if layer.row_unit is None:
        return rows
    index = torch.tensor(layer.row_unit, device=rows.device)
    return rows.new_zeros(layer.units).index_add(0, index, rows)


def mean_over_samples(
    model: nn.Module,
    graph: UnitGraph,
    reference: Reference,
    batch_size: int,
    explain: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
) -> Scores:
    """Average what ``explain`` says of each sample (eq. 5), summed in float64.

    Args:
        model: decides device and precision of the images.
        graph: names the layers.
        reference: the samples.
        batch_size: samples handed to ``explain`` at once.
        explain: (images, targets) to (n, units) by layer name.
    """
    sums = {layer.name: torch.zeros(layer.units, dtype=torch.float64) for layer in graph.layers}
    with torch.enable_grad():
        for images, targets in reference.batches(batch_size, model):
            for name, values in explain(images, targets).items():
                sums[name] += values.detach().cpu().double().sum(0)
    return {name: (total / len(reference)).float() for name, total in sums.items()}
