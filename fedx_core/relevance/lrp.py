"""Layer-wise relevance propagation: how much each unit contributed to the right answer.

Relevance starts at the logits of an image's labels and flows back to the units. Where several
inputs met, each takes the share that it contributed (the rules below).

Source: Klotz et al., FedX; rules in four groups of layers after Hatefi et al., Pruning By
Explaining Revisited, 2024, arXiv 2408.12568. Attention after Achtibat et al., AttnLRP, ICML 2024,
arXiv 2402.05602.
Differs from the paper: absolute values by default (``base.Aggregation``); FedX gives no rules for
ConvNeXt V2, so epsilon throughout, with GRN and LayerNorm linear around their statistics and their
shifts keeping what they gave, is ours; so is explaining it in float64 (``precision``).
Relevance at a unit is measured after BatchNorm, which is merged into the convolution before it.
That of single weights is shared out by the epsilon rule, whatever rule brought it to their unit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedx_core.base.errors import ConfigError
from fedx_core.models.base import Architecture
from fedx_core.propagation.explicit import Attention, Replacement, rewrite
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph, UnitLayer
from fedx_core.relevance import base
from fedx_core.relevance._probes import probing
from fedx_core.relevance._shares import sharing
from fedx_core.relevance._streamline import streamline

Rule = Literal["auto", "epsilon", "gamma", "zplus", "alpha2beta1"]
Initial = Literal["one", "logit"]
Precision = Literal["auto", "model", "float64"]

# The gradient of these is their rule (max pooling: winner takes all).
_NEEDS_NO_RULE = (nn.Identity, nn.Dropout, nn.Flatten, nn.MaxPool2d, nn.Sequential)


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Weighing):
    """LRP with one rule a group of layers (``Variant.lrp_groups``).

    Args:
        low: rule of the layers near the image; ``auto`` is epsilon.
        middle: rule of the layers behind; ``auto`` is gamma for ResNets, else epsilon.
        high: rule of the layers near the classifier; ``auto`` as for ``middle``.
        classifier: rule of the last linear layer; ``auto`` is epsilon.
        gamma: of the rule ``gamma``: how much more positive weights count, 0 or more.
        epsilon: of the rule ``epsilon``: what is added to a denominator, above 0.
        attention: ``attnlrp`` shares relevance between attention weights and values; ``cp`` (Ali et
            al. 2022, CP-LRP) holds the weights constant. The rows of queries and keys then get
            exactly 0 and are pruned first, so ``cp`` fits heads as units, not rows of ``qkv``.
        initial: relevance of the labels' logits. ``one`` gives each label of an image 1, as the
            code that FedX builds on does with its one label; ``logit`` gives it its logit, so that
            those the model is unsure of (logit near 0) do not dominate.
        precision: ``float64`` explains in float64, ``model`` in the model's own precision; ``auto``
            is float64 for ConvNeXt, where float32's rounding grows on the way back, else ``model``.
        aggregation: see :data:`fedx_core.relevance.base.Aggregation`.
    """

    low: Rule = "auto"
    middle: Rule = "auto"
    high: Rule = "auto"
    classifier: Rule = "auto"
    gamma: float = 0.25
    epsilon: float = 1e-6
    attention: Attention = "attnlrp"
    initial: Initial = "one"
    precision: Precision = "auto"
    aggregation: base.Aggregation = "abs_of_spatial_sum"

    def __post_init__(self) -> None:
        for name in ("low", "middle", "high", "classifier"):
            base.check_choice(name, getattr(self, name), Rule)
        base.check_choice("attention", self.attention, Attention)
        base.check_choice("initial", self.initial, Initial)
        base.check_choice("precision", self.precision, Precision)
        base.check_choice("aggregation", self.aggregation, base.Aggregation)
        if not self.gamma >= 0 or not self.epsilon > 0:
            raise ConfigError(
                f"gamma must be 0 or more and epsilon above 0, got {self.gamma} and {self.epsilon}"
            )

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
        """Propagate relevance back to every unit; nothing is drawn."""
        reference = base.required(reference)
        at_once = self.at_once(architecture, batch_size)
        with self.explaining(model, graph, architecture) as explain:
            return base.mean_over_samples(model, graph, reference, at_once, explain)

    def weigh(
        self,
        model: nn.Module,
        graph: UnitGraph,
        architecture: Architecture,
        reference: base.Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Share each unit's relevance out to its weights, by what each contributed."""
        reference = base.required(reference)
        at_once = self.at_once(architecture, batch_size)
        sums = {
            layer.weight: torch.zeros(model.get_parameter(layer.weight).shape, dtype=torch.float64)
            for layer in graph.layers
        }

        def add(name: str, shares: Tensor) -> None:
            sums[name] += (shares if self.aggregation == "signed" else shares.abs()).double().cpu()

        with (
            self.down_to_pixels(model, graph, architecture) as twin,
            sharing(twin, graph, add),
            torch.enable_grad(),
        ):
            for images, targets in reference.batches(at_once, model):
                logits = twin(images.requires_grad_())
                start = self.initial_relevance(logits.detach(), targets)
                torch.autograd.grad(logits, images, start)
        return {name: (total / len(reference)).float() for name, total in sums.items()}

    @contextmanager
    def explaining(
        self, model: nn.Module, graph: UnitGraph, architecture: Architecture
    ) -> Iterator[Callable[[Tensor, Tensor], dict[str, Tensor]]]:
        """Prepare a copy of the model once for any number of batches.

        Yields:
            (images, targets) to the relevance of each unit, (n, units) by layer name.
        """
        twin, composite = self._twin(model, graph, architecture)
        # Probes come first: what they read must be in front of a rule's cut through the graph.
        with (
            probing(twin, graph, self._reduce, copied=False) as probes,
            composite.context(twin),
        ):
            _require_rules(twin, composite, architecture.explicit(self.attention))

            def explain(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                logits = twin(images)
                start = self.initial_relevance(logits.detach(), targets)
                names = [layer.name for layer in graph.layers]
                found = torch.autograd.grad(logits, [probes[name] for name in names], start)
                return dict(zip(names, found, strict=True))

            yield explain

    @contextmanager
    def down_to_pixels(
        self, model: nn.Module, graph: UnitGraph, architecture: Architecture
    ) -> Iterator[nn.Module]:
        """Prepare a copy of the model whose gradients, as autograd calls them, are relevance.

        Yields:
            The copy, in eval mode. For its input and, as ``grad_outputs``, relevance of its logits,
            ``torch.autograd.grad`` returns the relevance of each value of the input.
        """
        twin, composite = self._twin(model, graph, architecture)
        with composite.context(twin):
            _require_rules(twin, composite, architecture.explicit(self.attention))
            yield twin

    def at_once(self, architecture: Architecture, batch_size: int) -> int:
        """Say how many images to explain at once: half as many where values are float64."""
        return max(1, batch_size // 2) if self._in_float64(architecture) else batch_size

    def _in_float64(self, architecture: Architecture) -> bool:
        if self.precision == "auto":
            return architecture.explained_in_float64
        return self.precision == "float64"

    def _twin(
        self, model: nn.Module, graph: UnitGraph, architecture: Architecture
    ) -> tuple[nn.Module, Any]:
        twin = base.copy_to_explain(model)
        if self._in_float64(architecture):
            # Sums that cancel come back as divisors; in float32 the last bits would choose units.
            twin.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        rewrite(twin, architecture.explicit(self.attention))
        streamline(twin, graph)
        architecture.quicken(twin, graph, rounding=False)
        return twin, self._composite(twin, graph, architecture)

    def _reduce(self, layer: UnitLayer, values: Tensor, relevance: Tensor) -> Tensor:
        return base.by_unit(relevance, layer, self.aggregation)

    def initial_relevance(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Relevance of the logits, (n, classes): all labels of an image in one pass.

        One pass is enough since relevance is linear in where it starts.
        """
        labels = base.positives(logits, targets)
        return labels * logits if self.initial == "logit" else labels

    def _composite(self, twin: nn.Module, graph: UnitGraph, architecture: Architecture) -> Any:
        from zennit.composites import NameLayerMapComposite
        from zennit.types import Activation, AvgPool, BatchNorm

        from fedx_core.propagation.rules import Epsilon, Pass

        inner: Rule = architecture.inner_rule
        rules = [
            self._rule(self.low, "epsilon"),
            self._rule(self.middle, inner),
            self._rule(self.high, inner),
        ]
        names = [layer.name for layer in graph.layers]
        # Several layers may stand in the classifier's place, and before it.
        heads = [
            name
            for name, module in twin.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and name not in names
        ]
        groups = [[n for n in names if n.startswith(group)] for group in architecture.lrp_groups]
        return NameLayerMapComposite(
            name_map=[
                *zip(groups, rules, strict=True),
                (heads, self._rule(self.classifier, "epsilon")),
            ],
            layer_map=[
                *architecture.rules(),
                (Activation, Pass()),
                (AvgPool, Epsilon()),
                (BatchNorm, Pass()),
            ],
        )

    def _rule(self, name: Rule, auto: Rule) -> Any:
        from fedx_core.propagation import rules

        match auto if name == "auto" else name:
            case "gamma":
                return rules.Gamma(self.gamma)
            case "zplus":
                return rules.Signs(1, 0)
            case "alpha2beta1":
                return rules.Signs(2, 1)
            case _:
                return rules.Epsilon(self.epsilon)


def _require_rules(model: nn.Module, composite: Any, replacements: Sequence[Replacement]) -> None:
    """Check that no module falls back to its plain gradient, which is no relevance.

    Raises:
        ConfigError: names the module.
    """
    replaced = tuple(kind for kind, method, _ in replacements if method == "forward")
    for name, module in model.named_modules():
        inner = next(module.children(), None) is not None
        if inner or isinstance(module, (*_NEEDS_NO_RULE, *replaced)):
            continue
        if composite.module_map({}, name, module) is None:
            raise ConfigError(
                f"LRP knows no rule for {name!r}, a {type(module).__name__}; add one "
                "to rules() or explicit() of its family in fedx_core/models, or choose another "
                "criterion (method.relevance.name)"
            )
