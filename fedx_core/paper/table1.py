"""The paper's Table I, printed values beside our ledger's.

The table is the BigEarthNet setting: 10 bands, 19 classes, 8 clients, 20 rounds of which 10 are
pruned, both directions counted. ``ours`` goes through the same masks and the same paper ledger as
every run does. The ViT row fits no selection of parameters that we know of: its printed savings are
exact multiples of the first, which floor(q C) can't give. It comes closest (0.8 %) when the patch
embedding is left out, so that row leaves it out here and is not claimed to be equal.
"""

import math
from dataclasses import dataclass

import torch

from fedx_core.models import catalogue
from fedx_core.pruning.masks import Mask, keep_highest
from fedx_core.pruning.structure import UnitGraph
from fedx_core.record import ledger

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLIENTS, ROUNDS, PRUNED_ROUNDS = 8, 20, 10
MIB = 2**20

# Model: size in MiB, total in MiB, saved in MiB at each rate, as printed.
PRINTED: dict[str, tuple[float, int, tuple[int, ...]]] = {
    "resnet6": (1.29, 412, (19, 39, 60, 80, 102, 121, 141, 162, 183)),
    "resnet18": (42.76, 13682, (675, 1358, 2038, 2721, 3416, 4091, 4774, 5454, 6137)),
    "resnet50": (89.91, 28771, (1419, 2856, 4283, 5720, 7172, 8592, 10028, 11456, 12893)),
    "convnextv2_atto": (12.96, 4148, (205, 411, 617, 823, 1029, 1234, 1440, 1646, 1852)),
    "convnextv2_nano": (57.24, 18315, (912, 1824, 2736, 3648, 4561, 5473, 6385, 7297, 8210)),
    "vit_base_patch16_224": (
        332.6,
        106432,
        (5147, 10294, 15441, 20588, 25735, 30882, 36029, 41176, 46323),
    ),
}
UNEXPLAINED = "vit_base_patch16_224"


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Args:
        model: name in the catalogue.
        size: MiB of one transfer, all float32 parameters.
        total: MiB of an unpruned training.
        saved: MiB saved at each of :data:`RATES`.
        printed_size: as in the paper.
        printed_total: as in the paper.
        printed_saved: as in the paper.
    """

    model: str
    size: float
    total: float
    saved: tuple[float, ...]
    printed_size: float
    printed_total: int
    printed_saved: tuple[int, ...]

    @property
    def equal_cells(self) -> int:
        """How many savings equal the paper's, which cuts off decimals."""
        return sum(
            math.floor(ours) == printed
            for ours, printed in zip(self.saved, self.printed_saved, strict=True)
        )


def row(model: str) -> Row:
    """Compute one row with the paper ledger, and put the printed one beside it."""
    entry = catalogue.entry(model)
    built = catalogue.build(model, bands=10, classes=19, seed=0)
    graph = entry.graph(built)
    transfers = CLIENTS * ROUNDS * 2
    total = ledger.paper_bytes(graph, None, transfers)
    size, printed_total, printed_saved = PRINTED[model]
    return Row(
        model=model,
        size=total / transfers / MIB,
        total=total / MIB,
        saved=tuple(_saved(graph, rate, whole=model == UNEXPLAINED) / MIB for rate in RATES),
        printed_size=size,
        printed_total=printed_total,
        printed_saved=printed_saved,
    )


def _saved(graph: UnitGraph, rate: float, *, whole: bool) -> int:
    scores = {layer.name: torch.arange(layer.units) for layer in graph.layers}
    mask = keep_highest(scores, rate)
    if whole:
        patches = torch.ones_like(mask.entries["patch_embed.proj"])
        mask = Mask("units", {**mask.entries, "patch_embed.proj": patches})
    transfers = CLIENTS * PRUNED_ROUNDS * 2
    return ledger.paper_bytes(graph, None, transfers) - ledger.paper_bytes(graph, mask, transfers)
