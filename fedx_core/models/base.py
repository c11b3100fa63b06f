"""What a model family is: all that the rest of FedX needs to know of it, in one file.

How its models are built; which layers write and which read the same channels, so that units can be
pruned; how relevance flows through what a ``forward`` does by itself; and what a pruned model needs
besides smaller layers. Whatever a family leaves out has a safe default: layers without streams keep
their places, and LRP refuses a module that it has no rule for.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from fedx_core.propagation.explicit import Attention, Replacement
from fedx_core.pruning.shrink import layers
from fedx_core.pruning.structure import Stream, UnitGraph, UnitLayer, batch_norm_of, rows_of

if TYPE_CHECKING:
    from fedx_core.pruning.shrink.model import Shrinking

Groups = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Variant:
    """One model of a family, before it is built.

    Args:
        build: (bands, classes) to a module with freshly drawn weights.
        classifier: name of the last linear layer, which is never pruned.
        lrp_groups: prefixes of the low, middle and high hidden layers (methods after Hatefi et al.
            2024; the classifier is the fourth group).
        input_size: side in pixels that images are resized to; None takes any size.
        of_width: (width) to such a ``build`` for a stem of so many channels, all other layers being
            as many times as wide or narrow; None where there is one width.
    """

    build: Callable[[int, int], nn.Module]
    classifier: str
    lrp_groups: Groups
    input_size: int | None = None
    of_width: Callable[[int], Callable[[int, int], nn.Module]] | None = None


@dataclass(frozen=True)
class Architecture(abc.ABC):
    """The interface of ``models/<family>.py``, whose class ``Architecture`` lists its ``variants``.

    Args:
        name: of the model, a key of ``variants``.
        width: channels of its stem; None for the model's own.
    """

    name: str
    width: int | None = None

    variants: ClassVar[Mapping[str, Variant]]
    """The family's models by the names that ``model.name`` takes, which no other family has."""

    inner_rule: ClassVar[Literal["epsilon", "gamma"]] = "epsilon"
    """LRP's rule for the middle and high hidden layers, unless settings say another."""

    explained_in_float64: ClassVar[bool] = False
    """Whether LRP's divisors nearly cancel, so that float32's rounding would choose units."""

    adds_in_place: ClassVar[bool] = False
    """Whether a ``forward`` changes what a layer has handed on, as ``out += identity`` does."""

    @property
    def family(self) -> str:
        """Name of the family, which is that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def _variant(self) -> Variant:
        return self.variants[self.name]

    @property
    def classifier(self) -> str:
        """Name of the last linear layer, which is never pruned."""
        return self._variant.classifier

    @property
    def lrp_groups(self) -> Groups:
        """Prefixes of the low, middle and high hidden layers."""
        return self._variant.lrp_groups

    @property
    def input_size(self) -> int | None:
        """Side in pixels that images are resized to; None takes any size."""
        return self._variant.input_size

    def build(self, bands: int, classes: int) -> nn.Module:
        """Build the model; its weights are drawn from torch's global generator."""
        variant = self._variant
        if self.width is None or variant.of_width is None:
            return variant.build(bands, classes)
        return variant.of_width(self.width)(bands, classes)

    def graph(self, model: nn.Module, *, heads: bool = False) -> UnitGraph:
        """Describe a model's units.

        Args:
            model: of this architecture.
            heads: treat attention heads as units instead of the rows of ``qkv``, where a family
                has attention.
        """
        modules = dict(model.named_modules())
        return UnitGraph(
            layers=tuple(
                self.layer(name, module, modules, heads=heads)
                for name, module in modules.items()
                if isinstance(module, nn.Conv2d | nn.Linear) and name != self.classifier
            ),
            streams=tuple(self.streams(modules, heads=heads)),
            shapes={name: tuple(value.shape) for name, value in model.state_dict().items()},
            parameters=frozenset(name for name, _ in model.named_parameters()),
        )

    def layer(
        self,
        name: str,
        module: nn.Conv2d | nn.Linear,
        modules: Mapping[str, nn.Module],
        *,
        heads: bool,
    ) -> UnitLayer:
        """Describe the units of one layer: its rows, with the BatchNorm behind it if there is one.

        Args:
            name: of the layer.
            module: the layer.
            modules: all of the model, by name.
            heads: see :meth:`graph`.
        """
        return rows_of(name, module, norm=batch_norm_of(name, modules))

    def streams(self, modules: Mapping[str, nn.Module], *, heads: bool) -> Sequence[Stream]:
        """Say which layers write the same channels, and which weights read nothing but those.

        None by default: dead units are zeros in their places then, and columns stay.
        """
        return ()

    def explicit(self, attention: Attention) -> Sequence[Replacement]:
        """Say which methods LRP replaces by ones that are made of ``propagation.explicit``.

        Every module whose ``forward`` adds, multiplies or normalises activations by itself needs
        one; convolutions, linear layers, BatchNorm, pooling and activations do not.

        Args:
            attention: what becomes of attention's weights, where a family has attention.
        """
        return ()

    def rules(self) -> Sequence[tuple[tuple[type[nn.Module], ...], Any]]:
        """Say LRP's rules for kinds of modules that zennit does not know.

        They are of ``propagation.rules``, which takes long to import: do it in here.
        """
        return ()

    def quicken(self, twin: nn.Module, graph: UnitGraph, *, rounding: bool) -> None:  # noqa: B027  a hook
        """Make a copy that is to be explained run quicker, in place; nothing by default.

        Args:
            twin: a copy that nobody else uses, in eval mode, each BatchNorm merged into the
                convolution before it. It shares memory: replace values, never write into them.
            graph: of its units.
            rounding: whether outputs that are equal but for rounding will do. Gradients take that
                well; LRP divides by sums near zero and magnifies the last bits.
        """

    def small_norm(self, dense: nn.Module, rows: Tensor, leaving: Tensor) -> nn.Module:
        """Build the norm of a pruned model behind one of its layers.

        Args:
            dense: the whole norm; its values are taken over.
            rows: alive channels, bool (channels,).
            leaving: channels that the small model's tensors have there, bool (channels,).
        """
        assert isinstance(dense, nn.BatchNorm2d), f"no small {type(dense).__name__}"
        return layers.BatchNorm2d(dense, rows, layers.route(rows, leaving, 1))

    def join(self, shrinking: "Shrinking") -> None:  # noqa: B027  a hook
        """Put right, in place, what joins the layers of a pruned model; nothing by default.

        A skip path that is no layer hands on the channels that it gets; where a block gives others
        than it gets, the path needs a :func:`fedx_core.pruning.shrink.layers.route`.
        """
