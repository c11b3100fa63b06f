"""A family of models that is this file alone: it trains, is explained, pruned and made smaller.

The file is put beside FedX's families under a name of its own, and nothing else is changed.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fedx_core.models
from bed import Bed, tiny
from fedx_core.models import base, catalogue
from fedx_core.models.base import Variant
from fedx_core.propagation.explicit import Add, Attention, Replacement
from fedx_core.pruning import masks
from fedx_core.pruning.masks import keep_highest
from fedx_core.pruning.shrink.layers import route
from fedx_core.pruning.shrink.model import shrink
from fedx_core.pruning.structure import Stream
from fedx_core.relevance import lrp
from fedx_core.relevance.base import Reference
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate

if TYPE_CHECKING:
    from fedx_core.pruning.shrink.model import Shrinking


class Bend(nn.Module):
    """An activation that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)


class Block(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bend = Bend()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.bn2(self.conv2(self.bend(self.bn1(self.conv1(x)))))


class BentNet(nn.Module):
    """A stem, blocks, and a linear classifier over the mean of the last map."""

    def __init__(self, bands: int, classes: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(bands, 12, 3, 2, 1), nn.BatchNorm2d(12), Bend())
        self.blocks = nn.Sequential(*(Block(12) for _ in range(blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.blocks(self.stem(images))).flatten(1))
        return logits


@dataclass(frozen=True)
class Architecture(base.Architecture):
    """BentNets of one and of two blocks."""

    variants: ClassVar[Mapping[str, Variant]] = {
        "bentnet1": Variant(
            lambda b, c: BentNet(b, c, 1), "fc", (("stem",), ("blocks.0",), ("x",))
        ),
        "bentnet2": Variant(
            lambda b, c: BentNet(b, c, 2), "fc", (("stem",), ("blocks.0",), ("blocks.1",))
        ),
    }
    inner_rule = "gamma"

    def streams(self, modules: Mapping[str, nn.Module], *, heads: bool) -> Sequence[Stream]:
        """The stem and the ends of all blocks before write what the next block reads."""
        found, writers = [], ["stem.0"]
        for block in _blocks(modules):
            residual = tuple((writer, 0) for writer in writers)
            found.append(Stream(residual, (f"{block}.conv1.weight",), 12))
            found.append(Stream(((f"{block}.conv1", 0),), (f"{block}.conv2.weight",), 12))
            writers.append(f"{block}.conv2")
        return [*found, Stream(tuple((writer, 0) for writer in writers), ("fc.weight",), 12)]

    def explicit(self, attention: Attention) -> Sequence[Replacement]:
        return [(Block, "forward", _shared)]

    def rules(self) -> Sequence[tuple[tuple[type[nn.Module], ...], Any]]:
        from fedx_core.propagation.rules import Pass

        return [((Bend,), Pass())]

    def join(self, shrinking: "Shrinking") -> None:
        for block in _blocks(shrinking.modules):
            before = shrinking.arriving(f"{block}.conv1")
            way = route(before, shrinking.leaving(f"{block}.conv2"), 1)
            shrinking.replace(f"{block}.skip", way)


def _blocks(modules: Mapping[str, nn.Module]) -> list[str]:
    return [name for name, module in modules.items() if isinstance(module, Block)]


def _shared(self: Block, x: Tensor) -> Tensor:
    y = self.bn2(self.conv2(self.bend(self.bn1(self.conv1(x)))))
    total: Tensor = Add.apply(self.skip(x), y)
    return total


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this file beside the families that there are, as ``bentnet.py``."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(__file__, folder / "bentnet.py")
    monkeypatch.setattr(fedx_core.models, "__path__", [*fedx_core.models.__path__, str(folder)])
    yield
    sys.modules.pop("fedx_core.models.bentnet", None)
    vars(fedx_core.models).pop("bentnet", None)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.usefixtures("added")
def test_a_family_in_one_file_trains_is_explained_and_pruned(bed: Bed) -> None:
    settings = tiny(
        model__name="bentnet2",
        method__relevance={"name": "lrp"},
        method__warmup_rounds=1,
        training__shrink=True,
        codec__name="sliced",
    )
    reports = list(federate(settings, bed.setting(), InProcess()))
    assert [report.pruned for report in reports] == [True, False, False]
    assert all(report.sparsity > 0.3 for report in reports)
    dense, pruned, _ = (sum(t.downlink for t in r.traffic.values()) for r in reports)
    assert pruned < 0.7 * dense
    assert all(report.metrics["loss"] < 10 for report in reports)


@pytest.mark.usefixtures("added")
def test_its_relevance_is_conserved_from_the_answer_to_the_stem() -> None:
    architecture = catalogue.entry("bentnet1")
    model = catalogue.build("bentnet1", 3, 4, seed=1).double().eval()
    for bias in (model.get_parameter("stem.0.bias"), model.get_parameter("fc.bias")):
        nn.init.zeros_(bias)
    graph = architecture.graph(model)
    reference = Reference(images(3), torch.tensor([0, 1, 3]))
    # What a fresh BatchNorm adds is nothing, so nothing is lost on the way.
    scores = lrp.Criterion(aggregation="signed", middle="epsilon", initial="logit").score(
        model, graph, architecture, reference, seed=0, batch_size=3
    )
    logits = model(images(3).double())
    wanted = logits[torch.arange(3), reference.targets].mean()
    torch.testing.assert_close(scores["stem.0"].sum().double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("added")
def test_it_computes_the_same_without_its_dead_units() -> None:
    architecture = catalogue.entry("bentnet2")
    model = catalogue.build("bentnet2", 3, 4, seed=1).double().eval()
    graph = architecture.graph(model)
    scores = {
        x.name: torch.rand(x.units, generator=torch.Generator().manual_seed(i))
        for i, x in enumerate(graph.layers)
    }
    mask = keep_highest(scores, 0.5)
    model.load_state_dict(masks.apply(model.state_dict(), graph.support(mask, "slices")))
    small = shrink(model, graph, mask, architecture).eval()
    assert sum(v.numel() for v in small.parameters()) < 0.5 * sum(
        v.numel() for v in model.parameters()
    )
    torch.testing.assert_close(small(images(2).double()), model(images(2).double()))


class Bare(base.Architecture):
    """The same models, of which nothing is said but how they are built."""

    variants: ClassVar[Mapping[str, Variant]] = Architecture.variants


def test_a_family_that_says_no_streams_computes_the_same_all_the_same() -> None:
    bare = Bare("bentnet2")
    model = bare.build(3, 4).double().eval()
    graph = bare.graph(model)
    mask = keep_highest({x.name: torch.arange(x.units) for x in graph.layers}, 0.5)
    model.load_state_dict(masks.apply(model.state_dict(), graph.support(mask, "slices")))
    small = shrink(model, graph, mask, bare).eval()
    assert sum(v.numel() for v in small.parameters()) < sum(v.numel() for v in model.parameters())
    torch.testing.assert_close(small(images(2).double()), model(images(2).double()))


@pytest.mark.usefixtures("added")
def test_its_models_are_offered_where_names_of_models_are() -> None:
    assert {"bentnet1", "bentnet2"} <= set(catalogue.names())
    with pytest.raises(ValueError, match="did you mean 'bentnet2'"):
        catalogue.entry("bentnet-2")
