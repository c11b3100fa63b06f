"""The paper's Table II: what an explanation and a mask cost, printed values beside ours.

Our convention, since the paper states none:

    relevance  one image explained once by LRP as it runs here, counted by torch's FLOP counter: two
               for each multiply-add of convolutions and matrix products, forwards and backwards;
               what works element by element is not counted. The mean of a BigEarthNet and a EuroSAT
               image, as the table says that it averages over both.
    mask       three operations for each prunable parameter. Applying a mask takes one, the product;
               three is what the printed numbers of five models come to, and which the others are is
               not said.

The mask's column can be checked, to the three digits that are printed. ViT's does not follow from
any count of its parameters that Table I allows. The column of relevance can't be checked: neither
the number of reference images nor what was counted is given. What can be said is how many images of
ours a printed value is worth; were that one number for all models, it would be the paper's set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fedx_core.base import seeding
from fedx_core.models import catalogue
from fedx_core.relevance.lrp import Criterion

MASK_OPERATIONS = 3

# Model: FLOPs of relevance estimation, FLOPs of applying the mask, as printed.
PRINTED: dict[str, tuple[float, float]] = {
    "resnet6": (1.20e12, 1.01e6),
    "resnet18": (2.49e12, 3.36e7),
    "resnet50": (4.38e12, 7.05e7),
    "convnextv2_atto": (5.67e11, 1.01e7),
    "convnextv2_nano": (2.49e12, 4.48e7),
    "vit_base_patch16_224": (5.00e13, 1.07e8),
}


@dataclass(frozen=True)
class Image:
    """What an image of a data set is like: bands, classes, side in pixels, labels per image."""

    bands: int
    classes: int
    side: int
    multi_label: bool


IMAGES = {"bigearthnet": Image(10, 19, 120, True), "eurosat": Image(3, 10, 64, False)}


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Args:
        model: name in the catalogue.
        relevance: FLOPs of one explanation by data set.
        mask: operations of applying one mask to the BigEarthNet model.
        printed_relevance: as in the paper, of an unknown number of images.
        printed_mask: as in the paper.
    """

    model: str
    relevance: Mapping[str, int]
    mask: int
    printed_relevance: float
    printed_mask: float

    @property
    def mean_relevance(self) -> float:
        """FLOPs of one explanation, the mean of both data sets."""
        return fmean(self.relevance.values())

    @property
    def images(self) -> float:
        """How many of our explanations the printed FLOPs are worth."""
        return self.printed_relevance / self.mean_relevance

    @property
    def same_mask(self) -> bool:
        """Whether the mask's operations are the printed ones, to the digits that are printed."""
        return f"{self.mask:.2e}" == f"{self.printed_mask:.2e}"


def row(model: str) -> Row:
    """Count one model's operations, and put the printed ones beside them."""
    entry = catalogue.entry(model)
    built = catalogue.build(model, bands=10, classes=19, seed=0)
    printed_relevance, printed_mask = PRINTED[model]
    return Row(
        model=model,
        relevance={name: explanation(model, image) for name, image in IMAGES.items()},
        mask=MASK_OPERATIONS * entry.graph(built).prunable,
        printed_relevance=printed_relevance,
        printed_mask=printed_mask,
    )


def explanation(model: str, image: Image) -> int:
    """Count the FLOPs of explaining one image by LRP.

    Args:
        model: name in the catalogue.
        image: what it is like; models of one input size are given that size.
    """
    entry = catalogue.entry(model)
    built = catalogue.build(model, image.bands, image.classes, seed=0)
    graph = entry.graph(built)
    side = entry.input_size or image.side
    generator = seeding.torch_generator(0)
    pixels = torch.randn(1, image.bands, side, side, generator=generator)
    counter = FlopCounterMode(display=False)
    with Criterion().explaining(built, graph, entry) as explain, torch.enable_grad(), counter:
        explain(pixels, _label(image))
    return int(counter.get_total_flops())


def _label(image: Image) -> Tensor:
    if image.multi_label:
        return torch.nn.functional.one_hot(torch.tensor([0]), image.classes)
    return torch.tensor([0])
