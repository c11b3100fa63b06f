"""What a support is: the weights that exist, chosen once, before training, for any method.

A weight that is not kept is zero from the first model to the last: no client trains it, and no
payload holds it. Biases, norms and the classifier stay whole. Masks of a method that prunes go on
top: what travels is what both keep.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from fedx_core.pruning.sparsity import Shape


class Support(Protocol):
    """A rule that chooses weights."""

    def choose(self, shapes: Mapping[str, Shape], others: int, seed: int) -> Mapping[str, Tensor]:
        """Choose the weights that exist.

        Args:
            shapes: of the weights of all layers but the classifier, by name; (out, in) or
                (out, in, height, width).
            others: parameters that always exist: biases, norms, the classifier.
            seed: of draws; the same at server and clients.

        Returns:
            Bool of the weight's shape by name, True = kept; a name that is missing is kept whole.
        """
