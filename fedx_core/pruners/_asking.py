"""Ask a criterion about the server's model, on its reference set."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fedx_core.base import plugins, seeding
from fedx_core.base.errors import ConfigError
from fedx_core.desk.desk import Desk
from fedx_core.pruning.masks import Scores
from fedx_core.relevance.base import Criterion, Reference
from fedx_core.wire.messages import ServerState


def criterion(block: Mapping[str, Any]) -> Criterion:
    """Build a criterion from its name with its parameters.

    Raises:
        ConfigError: there is none of that name, or a parameter is unknown or impossible.
    """
    if "name" not in block:
        raise ConfigError("relevance needs a name, such as lrp")
    params = {key: value for key, value in block.items() if key != "name"}
    built: Criterion = plugins.build("relevance", block["name"], params)
    return built


def check(asked: Criterion, desk: Desk) -> None:
    """Refuse a criterion that has nothing to explain, before a run begins.

    Raises:
        ConfigError: the message says which others have.
    """
    if not asked.needs_reference:
        return
    name = type(asked).__module__.rpartition(".")[2]
    if not (desk.objective.answers or desk.objective.compares):
        raise ConfigError(
            f"method.relevance {name} explains classes or the similarity of two views, and "
            f"training.objective {desk.plan.training.objective.name} has neither; choose magnitude "
            "or random, or the objective simclr, moco or byol"
        )
    if desk.objective.local(desk.model):
        raise ConfigError(
            f"method.relevance {name} explains what the heads compare, and "
            "training.objective.heads: local leaves the server none; set it to shared, or choose "
            "the criterion magnitude or random"
        )


def ask(
    asked: Criterion, question: Callable[..., Scores], desk: Desk, state: ServerState
) -> Scores:
    """Put a question to a criterion.

    Args:
        asked: the criterion.
        question: its ``score`` or its ``weigh``.
        desk: of the server.
        state: whose model is explained.

    Raises:
        FedXError: as the criterion says.
    """
    desk.model.load_state_dict(state.model)
    seed = seeding.derive(desk.seed, state.round_index, "relevance")
    model, reference = desk.model, None
    if asked.needs_reference:
        model, reference = _shown(desk, seeding.derive(seed, "views"))
    return question(
        model,
        desk.graph,
        desk.entry,
        reference,
        seed=seed,
        batch_size=desk.plan.training.eval_batch_size,
    )


def _shown(desk: Desk, seed: int) -> tuple[nn.Module, Reference]:
    """Return what is explained, and on which images.

    Where the model answers with classes, what it says of an image, and its reference set; where it
    was taught to find two views of an image alike, their similarity, whose second view is taken as
    given.
    """
    reference = desk.reference_set()
    if desk.objective.answers:
        return desk.objective.explained(desk.model), reference
    model, images = desk.objective.compared(
        desk.model,
        desk.entry.classifier,
        reference.images,
        desk.plan.pixels,
        seeding.numpy_generator(seed),
    )
    return model, Reference(images, torch.arange(len(images)))
