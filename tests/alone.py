"""One client's training without a federation: twelve tiny images, batches of four."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from bed import tiny
from fedx_core.base import plugins, state
from fedx_core.base.config import Plugin
from fedx_core.desk.desk import Desk
from fedx_core.desk.local import Local
from fedx_core.desk.plan import Plan
from fedx_core.images.examples import Examples
from fedx_core.images.pixels import Pixels
from fedx_core.methods.base import Method
from fedx_core.models import catalogue
from fedx_core.pruning.masks import Scores
from fedx_core.pruning.structure import UnitGraph
from fedx_core.wire.messages import ServerState, Update


def desk_of(model: nn.Module, graph: UnitGraph, bands: int = 3, **training: Any) -> Desk:
    """A desk with any model of four classes at it; settings of training may be changed."""
    chosen = {"batch_size": 4, "weight_decay": 0.01} | training
    settings = tiny(**{f"training__{name}": value for name, value in chosen.items()}).training
    return Desk(
        plan=Plan(
            model="resnet6",
            bands=bands,
            classes=4,
            label_kind="single",
            pixels=Pixels(
                scale=255.0,
                mean=(0.5,) * bands,
                std=(0.2,) * bands,
                input_size=None,
                memory_format="contiguous",
            ),
            training=settings,
            method=Plugin(name="fedavg"),
            codec=Plugin(name="dense"),
        ),
        entry=catalogue.entry("resnet6"),
        model=model,
        graph=graph,
        down=plugins.build("codec", "dense", {}),
        up=plugins.build("codec", "dense", {}),
    )


def nowhere() -> Desk:
    """A desk with a model of no entry at all."""
    return desk_of(nn.Module(), UnitGraph((), (), {}, frozenset()))


def info_of(name: str = "resnet6", **training: Any) -> Desk:
    """A desk with a model of three bands and four classes."""
    entry = catalogue.entry(name)
    model = catalogue.build(name, 3, 4, seed=1)
    return desk_of(model, entry.graph(model), **training)


def pruned(method: Method, server: ServerState, desk: Desk, scores: Scores) -> ServerState:
    """What scores make of a state whose mask is due."""
    pruner = method.parts.pruner
    return pruner.pruned(desk, server, pruner.choose(desk, server, scores))


def ended(
    method: Method, server: ServerState, desk: Desk, updates: Sequence[Update]
) -> ServerState:
    """What a round's updates lead to: settled, and pruned where that is due."""
    after = method.settle_each(desk, server, updates)
    pruner = method.parts.pruner
    if not pruner.due(after, ()):
        return after
    return pruned(method, after, desk, pruner.scores(desk, after))


def alone(**changed: Any) -> Local:
    """What a client's training sees: a new ResNet6, sent as it is; fields may be changed.

    ``training`` changes settings of training.
    """
    entry = catalogue.entry("resnet6")
    model = catalogue.build("resnet6", 3, 4, seed=1)
    random = np.random.default_rng(0)
    graph = entry.graph(model)
    fields: dict[str, Any] = {
        "desk": desk_of(model, graph, **changed.pop("training", {})),
        "client": "a",
        "round_index": 1,
        "model": model,
        "downlink": state.as_section(state.copy(model.state_dict()), "model"),
        "mask": None,
        "memory": {},
        "examples": Examples(
            random.integers(0, 256, (12, 3, 16, 16), dtype=np.uint8),
            random.integers(0, 4, 12),
            np.zeros(12, np.int16),
        ),
        "seed": 5,
    }
    return Local(**(fields | changed))
