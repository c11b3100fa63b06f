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
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedx_core.errors import ConfigError
from fedx_core.masks import Scores
from fedx_core.models.catalogue import Entry
from fedx_core.relevance import base
from fedx_core.relevance._explicit import Attention, rewrite
from fedx_core.relevance._probes import probing
from fedx_core.relevance._streamline import streamline
from fedx_core.structure import UnitGraph, UnitLayer

Rule = Literal["auto", "epsilon", "gamma", "zplus", "alpha2beta1"]
Initial = Literal["one", "logit"]
Precision = Literal["auto", "model", "float64"]

# The gradient of these is their rule (max pooling: winner takes all), or _explicit gave them one.
_NEEDS_NO_RULE = (nn.Identity, nn.Dropout, nn.Flatten, nn.MaxPool2d, nn.LayerNorm, nn.Sequential)


@dataclass(frozen=True, kw_only=True)
class Criterion(base.Criterion):
    """LRP with one rule a group of layers (``Entry.lrp_groups``).

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
        entry: Entry,
        reference: base.Reference | None,
        *,
        seed: int,
        batch_size: int,
    ) -> Scores:
        """Propagate relevance back to every unit; nothing is drawn."""
        reference = base.required(reference)
        # Half of the images at once, whose values take the memory of all of them in float32.
        at_once = max(1, batch_size // 2) if self._in_float64(entry) else batch_size
        with self.explaining(model, graph, entry) as explain:
            return base.mean_over_samples(model, graph, reference, at_once, explain)

    @contextmanager
    def explaining(
        self, model: nn.Module, graph: UnitGraph, entry: Entry
    ) -> Iterator[Callable[[Tensor, Tensor], dict[str, Tensor]]]:
        """Prepare a copy of the model once for any number of batches.

        Yields:
            (images, targets) to the relevance of each unit, (n, units) by layer name.
        """
        twin, composite = self._twin(model, graph, entry)
        # Probes come first: what they read must be in front of a rule's cut through the graph.
        with (
            probing(twin, graph, self._reduce, copied=False) as probes,
            composite.context(twin),
        ):
            _require_rules(twin, composite)

            def explain(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
                logits = twin(images)
                start = self.initial_relevance(logits.detach(), targets)
                names = [layer.name for layer in graph.layers]
                found = torch.autograd.grad(logits, [probes[name] for name in names], start)
                return dict(zip(names, found, strict=True))

            yield explain

    @contextmanager
    def down_to_pixels(
        self, model: nn.Module, graph: UnitGraph, entry: Entry
    ) -> Iterator[nn.Module]:
        """Prepare a copy of the model whose gradients, as autograd calls them, are relevance.

        Yields:
            The copy, in eval mode. For its input and, as ``grad_outputs``, relevance of its logits,
            ``torch.autograd.grad`` returns the relevance of each value of the input.
        """
        twin, composite = self._twin(model, graph, entry)
        with composite.context(twin):
            _require_rules(twin, composite)
            yield twin

    def _in_float64(self, entry: Entry) -> bool:
        if self.precision == "auto":
            return entry.family == "convnext"
        return self.precision == "float64"

    def _twin(self, model: nn.Module, graph: UnitGraph, entry: Entry) -> tuple[nn.Module, Any]:
        twin = base.copy_to_explain(model)
        if self._in_float64(entry):
            # Sums that cancel come back as divisors; in float32 the last bits would choose units.
            twin.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        rewrite(twin, entry.family, self.attention)
        streamline(twin, graph)
        return twin, self._composite(graph, entry)

    def _reduce(self, layer: UnitLayer, values: Tensor, relevance: Tensor) -> Tensor:
        return base.by_unit(relevance, layer, self.aggregation)

    def initial_relevance(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Relevance of the logits, (n, classes): all labels of an image in one pass.

        One pass is enough since relevance is linear in where it starts.
        """
        labels = base.positives(logits, targets)
        return labels * logits if self.initial == "logit" else labels

    def _composite(self, graph: UnitGraph, entry: Entry) -> Any:
        from zennit.composites import NameLayerMapComposite
        from zennit.types import Activation, AvgPool, BatchNorm

        from fedx_core.relevance._rules import Epsilon, Pass

        inner: Rule = "gamma" if entry.family == "resnet" else "epsilon"
        rules = [
            self._rule(self.low, "epsilon"),
            self._rule(self.middle, inner),
            self._rule(self.high, inner),
        ]
        names = [layer.name for layer in graph.layers]
        groups = [[n for n in names if n.startswith(group)] for group in entry.lrp_groups]
        return NameLayerMapComposite(
            name_map=[
                *zip(groups, rules, strict=True),
                ([entry.classifier], self._rule(self.classifier, "epsilon")),
            ],
            layer_map=[
                (Activation, Pass()),
                (AvgPool, Epsilon()),
                (BatchNorm, Pass()),
                *_timm_rules(entry.family),
            ],
        )

    def _rule(self, name: Rule, auto: Rule) -> Any:
        from fedx_core.relevance import _rules

        match auto if name == "auto" else name:
            case "gamma":
                return _rules.Gamma(self.gamma)
            case "zplus":
                return _rules.Signs(1, 0)
            case "alpha2beta1":
                return _rules.Signs(2, 1)
            case _:
                return _rules.Epsilon(self.epsilon)


def _timm_rules(family: str) -> list[tuple[Any, Any]]:
    """Name rules for timm's element-wise modules, which zennit does not know.

    GRN scales each channel by its norm and shifts it; with the norm held constant it is
    element-wise too.
    """
    if family == "resnet":
        return []
    from timm.layers.activations import GELU, GELUTanh
    from timm.layers.grn import GlobalResponseNorm

    from fedx_core.relevance._rules import Pass, Shifted

    return [((GELU, GELUTanh), Pass()), ((GlobalResponseNorm,), Shifted())]


def _require_rules(model: nn.Module, composite: Any) -> None:
    """Check that no module falls back to its plain gradient, which is no relevance.

    Raises:
        ConfigError: names the module.
    """
    for name, module in model.named_modules():
        inner = next(module.children(), None) is not None
        if inner or isinstance(module, _NEEDS_NO_RULE):
            continue
        if composite.module_map({}, name, module) is None:
            raise ConfigError(
                f"LRP knows no rule for {name!r}, a {type(module).__name__}; add one to "
                "fedx_core/relevance/lrp.py, or choose another criterion"
            )
