"""What a server decides once about training, and what every client builds alike of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

from fedx_core.asks.base import Ask
from fedx_core.base import seeding, strict_json
from fedx_core.base.config import ExperimentConfig, Plugin, as_plain, laid_out
from fedx_core.base.errors import ConfigError, DataError
from fedx_core.base.frozen_json import parse
from fedx_core.base.state import StateDict
from fedx_core.codec.base import Codec, whole
from fedx_core.desk.desk import Desk
from fedx_core.desk.plan import Plan as Plan
from fedx_core.images.examples import Description
from fedx_core.images.moments import Moments, mean_and_std
from fedx_core.images.pixels import Pixels
from fedx_core.learning.training import check_batches, least_batch
from fedx_core.methods.base import Method, Wire
from fedx_core.models import catalogue
from fedx_core.objectives.base import Objective
from fedx_core.pruning import masks
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import with_heads
from fedx_core.wire.frame import Buffer
from fedx_core.wire.messages import LARGEST_MESSAGE, Schema


@dataclass(frozen=True, kw_only=True)
class MethodDesk(Desk):
    """A desk with its method."""

    method: Method
    _wires: list[tuple[Mask | None, dict[str, Wire]]] = field(default_factory=list, repr=False)

    def wire(self, mask: Mask | None, variant: str = "") -> Wire:
        """Return the schemas of both directions under a mask; the last mask's are kept."""
        # By identity, and the mask is held here, so that no other can come to have its place.
        if not (self._wires and self._wires[0][0] is mask):
            self._wires[:] = [(mask, {})]
        wires = self._wires[0][1]
        if variant not in wires:
            wire = self.method.schema(self, mask, self.down.mode, variant)
            if self.up.mode != self.down.mode:
                other = self.method.schema(self, mask, self.up.mode, variant)
                wire = Wire(down=wire.down, up=other.up)
            wires[variant] = Wire(down=self._existing(wire.down), up=self._existing(wire.up))
        return wires[variant]

    def _existing(self, schema: Schema) -> Schema:
        """Leave out of a schema what does not exist, in all sections that speak of the weights."""
        support = dict(schema.support)
        for entry in schema.entries:
            kept = self.existing.get(entry.name.partition("/")[2])
            if kept is None or kept.shape != entry.shape:
                continue
            if entry.name in schema.flips:
                raise ConfigError(
                    f"{self.plan.method.name} lets clients choose which weights they send, so a "
                    "support can't choose them; set support to dense, or take another method"
                )
            support[entry.name] = kept & support[entry.name] if entry.name in support else kept
        return replace(schema, support=support)

    def at(self, ask: Ask) -> "MethodDesk":
        """Return the desk for a question: who sends no update is sent all of the model."""
        return self if ask.updates or not self.measures else self._scoring

    @cached_property
    def _scoring(self) -> "MethodDesk":
        return replace(self, measures=False, _wires=[])

    def masked(self, weights: Mapping[str, Tensor]) -> StateDict:
        """Zero the weights of a model that do not exist."""
        return masks.apply(weights, self.existing)


def read_plan(data: Buffer) -> Plan:
    """Read a plan as a run's store holds it.

    Raises:
        PayloadError: it is no plan.
    """
    return parse(Plan, strict_json.loads(data, LARGEST_MESSAGE))


def set_up(plan: Plan, seed: int = 0, architecture: str = "") -> MethodDesk:
    """Build what a plan names; the model's weights depend on ``seed``.

    Args:
        plan: to follow.
        seed: of the first weights.
        architecture: another model than the plan's; see ``Method.architecture``.

    Raises:
        ConfigError: the method does not allow of ``training.shrink``, or not of the model; the
            objective learns no such labels; or the model can't train on batches of this size.
    """
    plan = replace(plan, model=architecture or plan.model)
    method: Method = plan.method.build("methods")
    if plan.training.shrink and not method.keeps_dead_units_at_zero:
        raise ConfigError(
            f"training.shrink leaves dead units out of local training, but {plan.method.name} lets "
            "them move there (method.mask); set training.shrink to false or method.mask to unit"
        )
    entry = catalogue.entry(plan.model)
    objective: Objective = plan.training.objective.build("objectives")
    _check_kind(plan, objective)
    model = catalogue.build(plan.model, plan.bands, plan.classes, seed)
    objective.check(model, entry.family)
    graph = entry.graph(model, heads=method.heads)
    network = _with_heads(objective, model, entry.classifier, seed)
    check_batches(plan.training.batch_size, least_batch(network, objective), objective)
    existing: Mapping[str, Tensor] = {}
    if plan.support is not None:
        shapes = {
            name: tuple(value.shape)
            for name, value in network.named_parameters()
            if name in graph.parameters
            and name.endswith(".weight")
            and value.ndim > 1
            and not name.startswith(f"{entry.classifier}.")
        }
        weights = sum(math.prod(shape) for shape in shapes.values())
        others = sum(parameter.numel() for parameter in network.parameters()) - weights
        existing = plan.support.build("supports").choose(shapes, others, plan.support_seed)
    down: Codec = (method.downlink_codec or plan.codec).build("codec")
    up: Codec = (method.uplink or plan.uplink or plan.codec).build("codec")
    desk = MethodDesk(
        plan=plan,
        entry=entry,
        model=network,
        graph=graph
        if network is model and objective.answers
        else with_heads(
            graph,
            network,
            f"{entry.classifier}.weight",
            objective.reads,
            objective.also_reads(network),
        ),
        objective=objective,
        method=method,
        # A bound that sends nothing in earnest loses nothing by how it would be sent.
        down=down if method.communicates else whole(down),
        up=up if method.communicates else whole(up),
        existing=existing,
        # Clients that score models of their own need statistics of their own.
        measures=plan.training.batch_norm == "recalibrate" and not method.personal,
    )
    method.check(desk)
    return desk


def _check_kind(plan: Plan, objective: Objective) -> None:
    """Refuse an objective that can do nothing with labels of the plan's kind."""
    name = plan.training.objective.name
    if plan.label_kind in objective.label_kinds:
        return
    if plan.label_kind == "pixels":
        raise ConfigError(
            f"training.objective {name} takes labels of whole images, and the data set has a class "
            "for each pixel; choose the objective segmentation, or prepare the data set with "
            "labels: none in its source, to learn without labels"
        )
    raise ConfigError(
        f"training.objective {name} learns a class for each pixel, and the data set has none; "
        "choose the objective supervised, or a data set with masks"
    )


def first_weights(plan: Plan, seed: int) -> StateDict:
    """Draw the first weights of the network that a plan names, heads and all."""
    model = catalogue.build(plan.model, plan.bands, plan.classes, seed)
    objective: Objective = plan.training.objective.build("objectives")
    classifier = catalogue.entry(plan.model).classifier
    return _with_heads(objective, model, classifier, seed).state_dict()


def _with_heads(objective: Objective, model: nn.Module, classifier: str, seed: int) -> nn.Module:
    with seeding.initial_weights(seeding.derive(seed, "heads")):
        return objective.build(model, classifier)


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


def unmeasured(description: Description) -> Pixels:
    """Return a normalisation that changes nothing, for what must be known before any is."""
    bands = len(description.bands)
    return Pixels(
        scale=description.scale,
        mean=(0.0,) * bands,
        std=(1.0,) * bands,
        input_size=None,
        memory_format="contiguous",
    )


def plan_of(config: ExperimentConfig, description: Description, pixels: Pixels) -> Plan:
    """Write the plan that clients follow."""
    return Plan(
        model=config.model.name,
        bands=len(description.bands),
        classes=len(description.class_names),
        label_kind=description.label_kind,
        pixels=pixels,
        training=laid_out(config.training, config.federation.rounds),
        method=Plugin(name=config.method.name, params=as_plain(config.method.params)),
        codec=config.codec.down,
        uplink=None if config.codec.up == config.codec.down else config.codec.up,
        first_model=seeding.derive(config.seed, "model")
        if config.federation.first_model == "seed"
        else None,
        support=None if config.support.name == "dense" else config.support,
        support_seed=seeding.derive(config.seed, "support"),
    )
