"""How clients train: what a server decides once, as an object in the store, named by its hash."""

import math
from dataclasses import dataclass

from fedx_core.base.config import Plugin, TrainingConfig
from fedx_core.base.errors import ConfigError
from fedx_core.images import set_manifest
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels
from fedx_core.wire.messages import Ref


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
        uplink: another one for what clients send; None for the same.
        first_model: seed of the model's first weights, where clients draw them themselves.
        support: a file of ``supports``; None where all weights exist.
        support_seed: of its draws.
        public: unlabelled images that clients fetch once, where the method has them look at some.
        public_images: how many.
    """

    model: str
    bands: int
    classes: int
    label_kind: LabelKind
    pixels: Pixels
    training: TrainingConfig
    method: Plugin
    codec: Plugin
    # Plans from before these were settings lack them.
    uplink: Plugin | None = None
    first_model: int | None = None
    support: Plugin | None = None
    support_seed: int = 0
    public: Ref | None = None
    public_images: int = 0

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
        weights = self.training.class_weights
        if not isinstance(weights, str) and len(weights) != self.classes:
            raise ConfigError(
                f"training.class_weights has {len(weights)} weights and the data set "
                f"{self.classes} classes; give one for each, or set it to balanced or none"
            )
