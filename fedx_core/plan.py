"""How clients train: what a server decides once and every client builds alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedx_core import set_manifest, state
from fedx_core.codec.base import Codec
from fedx_core.config import ExperimentConfig, Plugin, TrainingConfig, as_plain
from fedx_core.errors import ConfigError, DataError
from fedx_core.examples import Description, LabelKind
from fedx_core.masks import Mask
from fedx_core.methods.base import Method, ModelInfo, Wire, model_info
from fedx_core.models import catalogue
from fedx_core.moments import Moments, mean_and_std
from fedx_core.pixels import Pixels
from fedx_core.shrink.model import shrink
from fedx_core.shrink.values import cut
from fedx_core.structure import Cut, unit_graph
from fedx_core.training import check_batches, needs_pairs, pick_device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How clients train: an object in the store, named by its hash.

    Args:
        model: name in the catalogue.
        bands: input channels.
        classes: outputs.
        label_kind: of the labels.
        pixels: normalisation.
        training: settings of local training.
        method: a file of ``methods`` with its parameters.
        codec: a file of ``codec``.
    """

    model: str
    bands: int
    classes: int
    label_kind: LabelKind
    pixels: Pixels
    training: TrainingConfig
    method: Plugin
    codec: Plugin

    def __post_init__(self) -> None:
        # A plan comes from elsewhere, and a model as large as it says is built of it.
        for what, count, most in (
            ("bands", self.bands, set_manifest.MOST_BANDS),
            ("classes", self.classes, set_manifest.MOST_CLASSES),
            ("input_size", self.pixels.input_size or 1, set_manifest.LARGEST_SIDE),
        ):
            if not 1 <= count <= most:
                raise ConfigError(f"a plan with {what} {count:,}, wanted 1 to {most:,}")
        if not len(self.pixels.mean) == len(self.pixels.std) == self.bands:
            raise ConfigError(
                f"a plan of {self.bands} bands with {len(self.pixels.mean)} means and "
                f"{len(self.pixels.std)} deviations, wanted one of each a band"
            )
        numbers = (self.pixels.scale, *self.pixels.mean, *self.pixels.std)
        if not all(map(math.isfinite, numbers)) or min(self.pixels.scale, *self.pixels.std) <= 0:
            raise ConfigError("a plan whose scale or deviations are not positive and finite")


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What a plan turns into: a model to work on and what is known of it."""

    plan: Plan
    entry: catalogue.Entry
    model: nn.Module
    info: ModelInfo
    method: Method
    codec: Codec
    _small: dict[str, nn.Module] = field(default_factory=dict, repr=False)
    _wires: list[tuple[Mask | None, dict[str, Wire]]] = field(default_factory=list, repr=False)

    def wire(self, mask: Mask | None, variant: str = "") -> Wire:
        """Return the schemas of both directions under a mask; the last mask's are kept."""
        # By identity, and the mask is held here, so that no other can come to have its place.
        if not (self._wires and self._wires[0][0] is mask):
            self._wires[:] = [(mask, {})]
        wires = self._wires[0][1]
        if variant not in wires:
            wires[variant] = self.method.schema(self.info, mask, self.codec.mode, variant)
        return wires[variant]

    def cuts(self, mask: Mask | None) -> Mapping[str, Cut]:
        """Say what the model that clients train lacks under a mask; nothing if it is dense."""
        if mask is None or mask.kind != "units" or not self.plan.training.shrink:
            return {}
        return self.info.graph.cuts(mask, "slices")

    def model_for(self, mask: Mask | None) -> nn.Module:
        """Return the model that clients train under a mask, built once for each."""
        if mask is None or not self.cuts(mask):
            return self.model
        key = mask.digest()
        if key not in self._small:
            self._small.clear()  # masks change rarely and do not come back
            self._small[key] = shrink(self.model, self.info.graph, mask)
        return self._small[key]

    def loaded(self, values: Mapping[str, Tensor], mask: Mask | None) -> nn.Module:
        """Return the same model with the values of a dense state whose dead entries are zero."""
        model = self.model_for(mask)
        state.load_(model, cut(values, self.cuts(mask)))
        return model

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return pick_device(self.plan.training.device)


def set_up(plan: Plan, seed: int = 0) -> Workbench:
    """Build what a plan names; the model's weights depend on ``seed``.

    Raises:
        ConfigError: the method does not allow of ``training.shrink``, or not of the model; or the
            model can't train on batches of this size.
    """
    method: Method = plan.method.build("methods")
    if plan.training.shrink and not method.keeps_dead_units_at_zero:
        raise ConfigError(
            f"training.shrink leaves dead units out of local training, but {plan.method.name} lets "
            "them move there (method.mask); set training.shrink to false or method.mask to unit"
        )
    entry = catalogue.entry(plan.model)
    model = catalogue.build(plan.model, plan.bands, plan.classes, seed)
    check_batches(plan.training.batch_size, pairs=needs_pairs(model))
    graph = unit_graph(model, entry.family, entry.classifier, heads=method.heads)
    info = model_info(model, graph, local_batch_norm=plan.training.batch_norm == "local")
    method.check(info)
    return Workbench(
        plan=plan,
        entry=entry,
        model=model,
        info=info,
        method=method,
        codec=plan.codec.build("codec"),
    )


def pixels_of(
    config: ExperimentConfig, description: Description, moments: Moments | None
) -> Pixels:
    """Decide how images become inputs.

    Args:
        config: names the normalisation and the model.
        description: scale and published statistics.
        moments: measured sums; None for ``published``.

    Raises:
        DataError: nobody published statistics of this data set.
    """
    if moments is not None:
        mean, std = (tuple(map(float, part)) for part in mean_and_std(moments))
    elif description.published_mean is None or description.published_std is None:
        raise DataError(
            f"no published statistics of {description.name!r}; "
            "set training.normalisation to reference or federated"
        )
    else:
        mean, std = description.published_mean, description.published_std
    return Pixels(
        scale=description.scale,
        mean=mean,
        std=std,
        input_size=catalogue.entry(config.model.name).input_size,
        memory_format=config.training.memory_format,
    )


def plan_of(config: ExperimentConfig, description: Description, pixels: Pixels) -> Plan:
    """Write the plan that clients follow."""
    return Plan(
        model=config.model.name,
        bands=len(description.bands),
        classes=len(description.class_names),
        label_kind=description.label_kind,
        pixels=pixels,
        training=config.training,
        method=Plugin(name=config.method.name, params=as_plain(config.method.params)),
        codec=config.codec,
    )
